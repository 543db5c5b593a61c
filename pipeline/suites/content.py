"""Identity of weights without loading them: content ids, duplicates, and the hash a hub would show.

An id must be cheap (154 checkpoints of 2.8 B parameters are 860 GB) and must differ whenever training moved
the weights. Files up to 64 MiB are hashed whole. Of a larger file the size, both ends and 256 evenly spaced
blocks of 64 KiB are hashed (16 MiB): an optimizer step changes every tensor, so a difference cannot hide
between them, but a single flipped byte can. Hence equal ids of large files are only a suspicion, confirmed by
hashing them whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.spec import Checkpoint
from pipeline.suites.files import weight_files

WHOLE_BYTES = 64 * 2**20
BLOCK_BYTES = 64 * 2**10
BLOCKS = 256
PIECE_BYTES = 2**25
"""Read and hashed at a time. Between two pieces the thread waits for its turn of Python, up to 5 ms beside one that
launches kernels all the time: with hashlib.file_digest's pieces of 2^18 bytes it took up to 20 times as long there."""


def content_id(folder: Path) -> str:
    """Identifies the weights and config.json of a checkpoint folder: equal content has equal ids.

    ``CheckpointError`` where :func:`weight_files` finds no complete checkpoint.
    """
    digest = hashlib.sha256(
        (folder / "config.json").read_bytes() if (folder / "config.json").is_file() else b""
    )
    for path in weight_files(folder):
        digest.update(f"\n{path.name} {path.stat().st_size}\n".encode() + _sample(path))
    return digest.hexdigest()


def weights_sha256(folder: Path) -> str:
    """sha256 of the weight file's bytes, which is what a hub lists as its LFS hash.

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


def local_content_ids(folders: Sequence[Path]) -> list[str]:
    """:func:`content_id` of each folder, hashed in parallel (hashlib releases the GIL).

    Empty for a folder without complete weights: it is listed all the same and fails by name when it is
    measured.
    """

    def identify(folder: Path) -> str:
        try:
            return content_id(folder)
        except (CheckpointError, OSError):
            return ""

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(identify, folders))


def find_duplicates(
    checkpoints: Sequence[Checkpoint], confirm: Callable[[Checkpoint], str] | None = None
) -> tuple[Checkpoint, ...]:
    """The same checkpoints, each later one of equal content marked with the key of the first.

    ``confirm`` returns the whole hash of one checkpoint; given, it decides within a group of equal ids.
    """
    groups: dict[str, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        if checkpoint.content_id:
            groups[checkpoint.content_id].append(checkpoint)
    first_of: dict[str, str] = {}
    for group in groups.values():
        seen: dict[str, str] = {}
        for checkpoint in group if len(group) > 1 else ():
            identity = confirm(checkpoint) if confirm else checkpoint.content_id
            first = seen.setdefault(identity, checkpoint.key)
            if first != checkpoint.key:
                first_of[checkpoint.key] = first
    return tuple(dataclasses.replace(each, duplicate_of=first_of.get(each.key)) for each in checkpoints)


def confirm_local(checkpoint: Checkpoint) -> str:
    """Whole hash of a local checkpoint whose id was sampled; its id where that already covers every byte."""
    folder = Path(checkpoint.location)
    if all(path.stat().st_size <= WHOLE_BYTES for path in weight_files(folder)):
        return checkpoint.content_id
    return weights_sha256(folder)


def _sample(path: Path) -> bytes:
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return bytes.fromhex(file_sha256(path))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for index in range(BLOCKS + 2):  # the first and the last are the ends of the file
            file.seek((size - BLOCK_BYTES) * index // (BLOCKS + 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.digest()
