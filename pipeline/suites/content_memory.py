"""Cache of content ids of unchanged folders, kept between commands.

Identifying a checkpoint reads up to 16 MiB of its weights, and every command, also a resumed audit, needs the ids
of all checkpoints. An id is therefore kept with the metadata of its files (name, size, inode, times of change), as
in the index of a version control system, and used while the metadata is unchanged. No program can set back an
inode's change time, so a file that was overwritten and given its old date is noticed. Files changed in the last
minute are never cached: a second change within the file system's time resolution would go unnoticed.

This is only an optimisation: a cache that cannot be read or written counts as empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.errors import CheckpointError, OutputError
from pipeline.base.files import load_json, make_folder, write_atomically
from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.content import Identity, local_identities

SETTLED_NS = 60 * 10**9
"""Files changed more recently than this are not cached, nanoseconds."""


def identities(suite: Path, folders: Sequence[Path]) -> list[Identity]:
    """Like ``content.local_identities`` for ``folders`` of ``suite``, but reads only what has changed."""
    path = _memory_file(suite)
    known, states = _read(path), [_state(folder) for folder in folders]
    ids = {}
    for folder, state in zip(folders, states, strict=True):
        remembered = known.get(folder.name)
        if state is not None and remembered is not None and remembered[0] == state:
            ids[folder] = Identity(*remembered[1:])
    missing = [folder for folder in folders if folder not in ids]
    ids |= dict(zip(missing, local_identities(missing), strict=True))
    if missing:
        now = {
            folder.name: [state, ids[folder].content, ids[folder].same]
            for folder, state in zip(folders, states, strict=True)
            if state is not None and ids[folder].content and state == _state(folder)
        }
        if now:
            _write(path, known | now)
    return [ids[folder] for folder in folders]


def _state(folder: Path) -> str | None:
    """Metadata of the checkpoint's files; None if it is incomplete or may still be changing."""
    try:
        files = [folder / "config.json", *weight_files(folder)]
        stats = [(file.name, file.stat()) for file in files]
    except (CheckpointError, OSError):
        return None
    if max(max(stat.st_mtime_ns, stat.st_ctime_ns) for _, stat in stats) > time.time_ns() - SETTLED_NS:
        return None
    told = [(name, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _memory_file(suite: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - never raises
    if not home.is_absolute():  # a user without a home folder: nothing can be cached
        home = Path(os.devnull)
    return home / "int4-collapse" / f"{hashlib.sha256(os.fsencode(suite)).hexdigest()[:16]}.json"


def _read(path: Path) -> dict[str, list[str]]:
    try:
        known = load_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {
        name: each
        for name, each in known.items()
        if isinstance(each, list) and len(each) == 3 and all(isinstance(text, str) for text in each)
    }


def _write(path: Path, known: dict[str, list[str]]) -> None:
    try:
        make_folder(path.parent)
        write_atomically(path, json.dumps(known).encode())
    except (OSError, OutputError):
        return
