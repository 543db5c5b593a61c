"""Identify weights without loading them: content ids, duplicates, and the hash that a hub shows.

An id must be cheap (154 checkpoints of 2.8 B parameters are 860 GB) and must differ whenever training moved
the weights. Files up to 64 MiB are hashed whole. Of a larger file the size, both ends and 256 evenly spaced
blocks of 64 KiB are hashed (16 MiB): an optimizer step changes every tensor, so a difference cannot hide
between them, but a single flipped byte can. Hence equal ids of large files are only a suspicion, confirmed by
hashing them whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import CheckpointError
from pipeline.base.files import JSON_BYTES, parse_json, read_regular
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import weight_files

WHOLE_BYTES = 64 * 2**20
BLOCK_BYTES = 64 * 2**10
BLOCKS = 256
NO_SETTINGS = ("_name_or_path", "_commit_hash", "transformers_version")
"""Settings in config.json that do not describe the model."""
PIECE_BYTES = 2**25
"""Bytes that are read and hashed at a time. Between two pieces the thread waits for the GIL, up to 5 ms beside a
thread that launches kernels: with the pieces of hashlib.file_digest, 2^18 bytes, hashing took up to 20 times as
long."""


@dataclass(frozen=True)
class Identity:
    """Identity of a checkpoint folder's content; empty strings if its weights are incomplete."""

    content: str = ""
    """Id of the weights and of config.json, byte for byte."""
    same: str = ""
    """Id of the weights and of the settings in config.json, whatever their formatting."""


def content_id(folder: Path) -> str:
    """Id of the weights and config.json of a checkpoint folder: equal content has equal ids.

    Raises CheckpointError if :func:`weight_files` finds no complete checkpoint.
    """
    return identify(folder).content


def identify(folder: Path) -> Identity:
    """Both ids of a checkpoint folder, from one read of its weights; raises as :func:`content_id` does."""
    files = weight_files(folder)
    config = read_regular(folder / "config.json", JSON_BYTES)
    content, same = hashlib.sha256(config), hashlib.sha256(canonical_config(config))
    for path in files:
        line = f"\n{path.name} {path.stat().st_size}\n".encode() + sample(path)
        content.update(line)
        same.update(line)
    return Identity(content.hexdigest(), same.hexdigest())


def canonical_config(data: bytes) -> bytes:
    """The settings of a config.json in canonical form; ``data`` itself if it is no JSON object.

    Its place and its writer do not count: see :data:`NO_SETTINGS`.
    """
    try:
        config = parse_json(data, finite=False)
    except ValueError:
        return data
    if not isinstance(config, dict):
        return data
    kept = {name: value for name, value in config.items() if name not in NO_SETTINGS}
    return json.dumps(kept, sort_keys=True).encode()


def weights_sha256(folder: Path) -> str:
    """sha256 of the weight file's bytes, which a hub lists as its LFS hash.

    For weights in several files: sha256 of the lines ``name sha256``, sorted and each ended by a newline.
    """
    files = weight_files(folder)
    with ThreadPoolExecutor(4) as pool:
        return combined_sha256(
            dict(zip((file.name for file in files), pool.map(file_sha256, files), strict=True))
        )


def combined_sha256(hashes: dict[str, str]) -> str:
    """The hash of a checkpoint from the hashes of its weight files by name."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(min(PIECE_BYTES, path.stat().st_size or 1)))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def local_identities(folders: Sequence[Path]) -> list[Identity]:
    """:func:`identify` of each folder, hashed in parallel (hashlib releases the GIL).

    Empty for a folder without complete weights: it is still listed and fails by name when it is measured.
    """

    def identity(folder: Path) -> Identity:
        try:
            return identify(folder)
        except (CheckpointError, OSError):
            return Identity()

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(identity, folders))


def find_duplicates(
    checkpoints: Sequence[Checkpoint],
    confirm: Callable[[Checkpoint], str] | None = None,
    same: Mapping[str, str] | None = None,
) -> tuple[Checkpoint, ...]:
    """The checkpoints, with each later one of equal content marked by the key of the first.

    ``same``: key -> id to compare instead of the content id. ``confirm``: returns the full hash of a checkpoint's
    weights, empty if its id covers every byte; if given, it decides within a group of equal ids.
    """
    groups: dict[str, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        if checkpoint.content_id:
            groups[(same or {}).get(checkpoint.key, checkpoint.content_id)].append(checkpoint)
    first_of: dict[str, str] = {}
    for group in groups.values():
        seen: dict[str, str] = {}
        for checkpoint in group if len(group) > 1 else ():
            first = seen.setdefault(confirm(checkpoint) if confirm else "", checkpoint.key)
            if first != checkpoint.key:
                first_of[checkpoint.key] = first
    return tuple(dataclasses.replace(each, duplicate_of=first_of.get(each.key)) for each in checkpoints)


def confirm_local(checkpoint: Checkpoint) -> str:
    """Full hash of a local checkpoint's weights; empty if its id already covers every byte."""
    folder = Path(checkpoint.location)
    if all(path.stat().st_size <= WHOLE_BYTES for path in weight_files(folder)):
        return ""
    return weights_sha256(folder)


def sample(path: Path) -> bytes:
    """Hash of a file up to ``WHOLE_BYTES``, or of samples of a larger one (see the module's docstring)."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return bytes.fromhex(file_sha256(path))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(BLOCKS + 2):  # the first and the last block are the ends of the file
            file.seek((size - BLOCK_BYTES) * index // (BLOCKS + 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.digest()
