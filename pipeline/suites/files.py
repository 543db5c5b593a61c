"""Which files of a checkpoint folder hold its weights, and writing files so that they are whole or absent."""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import CheckpointError, FolderLockedError, OutputError

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

TEMPORARY = ".tmp-"
"""Prefix of everything that is not finished; matches no checkpoint pattern."""


def choose_weights(names: Iterable[str]) -> tuple[str, ...]:
    """The weight files among ``names`` (sorted): safetensors if there are any, else ``pytorch_model*.bin``."""
    present = sorted(names)
    for pattern in WEIGHT_PATTERNS:
        chosen = fnmatch.filter(present, pattern)
        if chosen:
            return tuple(chosen)
    return ()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a checkpoint folder, in name order.

    ``CheckpointError`` if there is no config.json, no weight file, or if the index of a sharded checkpoint names
    one that is missing.
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


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that it holds the old or the new content, never something in between."""
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary sibling to write; becomes ``path`` when the block ends, after it is synced."""
    sibling = path.with_name(f"{TEMPORARY}{path.name}")
    with _output_errors(path):
        with open(sibling, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, path)
        _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling to fill; becomes ``path`` when the block ends, after every file in it is synced.

    An exception in the block leaves no trace at ``path``. A folder already there is replaced.
    """
    sibling = path.with_name(f"{TEMPORARY}{path.name}")
    with _output_errors(path):
        shutil.rmtree(sibling, ignore_errors=True)
        sibling.mkdir(parents=True)
        yield sibling
        for file in sibling.rglob("*"):
            _sync(file)
        _sync(sibling)
        if path.exists():
            shutil.rmtree(path)
        os.rename(sibling, path)
        _sync(path.parent)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Makes ``folder`` if need be and holds it for this process; a dead process does not leave it locked.

    ``FolderLockedError`` while another process holds it.
    """
    with _output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise FolderLockedError(f"another process is working in {folder}: wait for it or stop it") from error
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free space or fix its permissions, then run again"
        ) from error
