"""Find the weight files of a checkpoint folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.base.errors import CheckpointError
from pipeline.base.files import load_json
from pipeline.suites.foreign import names_below, what_it_is

INDEX = ".index.json"
WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names in order of preference: each one file, else the shards that its index (name + ``INDEX``) names.

``.bin`` is a pickle: load it with ``weights_only=True`` only. Other files beside them (an average of the weights, a
consolidated copy) are not loaded and count in no hash.
"""

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
    """The sorted weight files among ``names``, if only names are known (on a hub).

    Chooses like :func:`weight_files`, but recognizes shards by name instead of by an index.
    """
    present = sorted(names)
    for single in WEIGHT_NAMES:
        if single in present:
            return (single,)
        stem, suffix = single.split(".")
        shards = [name for name in present if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name)]
        if shards:
            return tuple(shards)
    return ()


def undecided_index(names: Iterable[str]) -> str | None:
    """The index among ``names`` that must be read to find the weight files; None if the names suffice.

    They suffice if there is one file, or all shards of one split and no others.
    """
    present = set(names)
    for single in WEIGHT_NAMES:
        if single in present:
            return None
        index = single + INDEX
        stem, suffix = single.split(".")
        shards = [re.fullmatch(rf"{stem}-(\d+)-of-(\d+)\.{suffix}", name) for name in present]
        totals = [int(shard[2]) for shard in shards if shard]
        if index in present and (set(totals) != {len(totals)}):
            return index
        if totals:
            return None
    return None


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights of a checkpoint folder, in name order.

    Raises CheckpointError if there is no config.json or no weight file, or if an index names a missing shard.
    """
    return tuple(assigned_tensors(folder))


def assigned_tensors(folder: Path) -> dict[Path, tuple[str, ...] | None]:
    """Each of :func:`weight_files` with the tensors in it that belong to the checkpoint; None: all.

    A shard may hold more tensors than its index assigns to it, such as copies from an earlier split.
    """
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder {folder} does not exist")
    assigned = _assigned(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: the architecture is unknown")
    missing = [name for name in assigned if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks weight shards {', '.join(missing)}, which its index names: copy it completely"
        )
    return {folder / name: tensors for name, tensors in assigned.items()}


def _assigned(folder: Path) -> dict[str, tuple[str, ...] | None]:
    for single in WEIGHT_NAMES:
        if (folder / single).is_file():
            return {single: None}
        if (folder / (single + INDEX)).is_file():
            return indexed_tensors(folder / (single + INDEX))
    found = what_it_is(names_below(folder))
    wanted = f"wanted {' or '.join(WEIGHT_NAMES)}, or their index and its shards"
    raise CheckpointError(f"{folder} holds no weights: {wanted if found is None else f'it {found}'}")


def indexed_tensors(index: Path) -> dict[str, tuple[str, ...] | None]:
    """Weight file -> names of its tensors, from ``index``; raises CheckpointError if it is malformed."""
    try:
        file_of = dict(load_json(index)["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a readable index of weights: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not file_of or not all(isinstance(file, str) and file == Path(file).name for file in file_of.values()):
        raise CheckpointError(f"{index} names no weight files beside it: fetch it again")
    names = sorted(set(file_of.values()))
    return {name: tuple(tensor for tensor, file in file_of.items() if file == name) for name in names}


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether the files called ``names`` contain a tokenizer."""
    present = set(names)
    return (
        bool(present & {"tokenizer.json", "tokenizer.model", "vocab.txt"})
        or {"vocab.json", "merges.txt"} <= present
    )
