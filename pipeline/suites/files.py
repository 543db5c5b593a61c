"""Which files of a checkpoint folder hold its weights, and making a folder that is whole or absent."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import CheckpointError, OutputError

WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
"""In order of preference. ``.bin`` is a pickle: whoever loads it must pass ``weights_only=True``."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)


def choose_weights(names: Iterable[str]) -> tuple[str, ...]:
    """The weight files among ``names``, sorted: safetensors if any, else ``pytorch_model*.bin``."""
    present = sorted(names)
    for pattern in WEIGHT_PATTERNS:
        chosen = fnmatch.filter(present, pattern)
        if chosen:
            return tuple(chosen)
    return ()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a checkpoint folder, in name order.

    ``CheckpointError`` if there is no config.json, no weight file, or if the index of a sharded checkpoint
    names one that is missing.
    """
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder {folder} does not exist (any more)")
    names = [path.name for path in folder.iterdir() if path.is_file()]
    chosen = choose_weights(names)
    if not chosen:
        raise CheckpointError(f"{folder} holds no weights: wanted {' or '.join(WEIGHT_PATTERNS)}")
    if "config.json" not in names:
        raise CheckpointError(f"{folder} holds no config.json: the architecture is unknown")
    missing = sorted(set(_indexed(folder, chosen)) - set(names))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}, which its index names: copy it completely"
        )
    return tuple(folder / name for name in chosen)


def _indexed(folder: Path, chosen: tuple[str, ...]) -> list[str]:
    index = folder / ("model.safetensors" if chosen[0].endswith(".safetensors") else "pytorch_model.bin")
    index = index.with_name(index.name + ".index.json")
    if not index.is_file():
        return []
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not a readable index of weights: {error}") from error


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether the files called ``names`` contain a tokenizer."""
    present = set(names)
    return (
        bool(present & {"tokenizer.json", "tokenizer.model", "vocab.txt"})
        or {"vocab.json", "merges.txt"} <= present
    )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling to fill; becomes ``path`` when the block ends, after everything in it is synced.

    An exception in the block leaves nothing at ``path``, which must not exist yet. ``OutputError`` where
    the disk or its permissions are in the way. The sibling's name is hidden.
    """
    sibling = path.with_name(f".{path.name}.tmp")
    try:
        shutil.rmtree(sibling, ignore_errors=True)  # what a killed process left
        sibling.mkdir(parents=True)
        yield sibling
        for each in (*sibling.rglob("*"), sibling):
            _sync(each)
        sibling.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what was written before is intact: make the "
            "folder writable (or free space there) and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
