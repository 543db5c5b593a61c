"""Read the hub client's own cache on disk.

::

    HF_HUB_CACHE/models--ORG--NAME/refs/BRANCH            the commit behind a branch
    HF_HUB_CACHE/models--ORG--NAME/snapshots/COMMIT/FILE  a link to ../../blobs/HASH, or the file itself

The target of a link in ``blobs`` is named by its hash. A cache that was copied without links (``cp -rL``, file
systems without them) holds files, which must be hashed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.base.errors import CheckpointError
from pipeline.base.files import read_regular
from pipeline.suites.content import WHOLE_BYTES, sample
from pipeline.suites.hub.listing import HubFile, Listing

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def cached_refs(repository: str) -> dict[str, str]:
    """Branch or tag -> commit, for all that the cache knows."""
    root = _folder(repository) / "refs"
    found = {}
    for path in sorted(root.rglob("*")):
        try:
            commit = read_regular(path, 1000).decode("ascii").strip()
        except (OSError, ValueError):  # a folder on the way to a branch like pr/1, or damaged
            continue
        if _COMMIT.fullmatch(commit):
            found[path.relative_to(root).as_posix()] = commit
    return found


def cached_listing(repository: str, commit: str) -> Listing | None:
    """The cached files of one commit; None if the cache has none of them.

    Raises CheckpointError if a needed file is a link to a blob that is gone.
    """
    folder = _folder(repository) / "snapshots" / commit
    try:
        paths = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() or path.is_symlink()}
    except OSError:
        return None
    needed = {file.name for file in Listing(tuple(HubFile(name, 0, "") for name in paths)).wanted}
    files = []
    for name, path in paths.items():
        if path.is_file():
            files.append(_file(path) if name in needed else HubFile(name, path.stat().st_size, ""))
        elif name in needed:
            raise CheckpointError(
                f"{path} is a link to {path.readlink()}, which is gone: fetch it again, or copy the cache whole"
            )
    return Listing(tuple(files)) if files else None


def cached_folder(repository: str, commit: str, files: Sequence[HubFile]) -> Path | None:
    """The snapshot folder of a commit, if it has each of ``files`` with its listed size."""
    folder = _folder(repository) / "snapshots" / commit
    for file in files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return None
    return folder if files else None


def _folder(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _file(path: Path) -> HubFile:
    status, blob = path.stat(), path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and _HASH.fullmatch(blob.name):
        return HubFile(path.name, status.st_size, blob.name, blob.name if len(blob.name) == 64 else None)
    digest = _sampled(path, (status.st_size, status.st_mtime_ns, status.st_ino)).hex()
    if status.st_size <= WHOLE_BYTES:
        return HubFile(path.name, status.st_size, digest, digest)
    return HubFile(path.name, status.st_size, digest, sampled=True)


@functools.lru_cache(maxsize=10_000)
def _sampled(path: Path, state: tuple[int, int, int]) -> bytes:  # noqa: ARG001 (a changed file is another key)
    return sample(path)
