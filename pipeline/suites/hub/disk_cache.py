"""Downloaded checkpoints on a node's disk, within a budget and shared by its workers.

::

    HF_HOME/int4-collapse/ORG--NAME/checkpoints/COMMIT/       config, weights; NAME.part while it arrives
    HF_HOME/int4-collapse/ORG--NAME/checkpoints/COMMIT.lock   exclusive for the process that fills it, shared for
    readers HF_HOME/int4-collapse/.lock                               held while disk is allotted

Locks are the kernel's (flock): they end with their process, however it ends, and hold between threads as well. A
folder counts against the budget with its whole size from the moment its download begins. To free disk, folders
without a lock are removed: first those that were measured (oldest first), and, only for a checkpoint that a worker
waits for, also prefetched ones. Files in the hub client's own cache are used in place and never removed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.base.errors import CheckpointError, OutputError
from pipeline.base.files import make_folder
from pipeline.base.locks import FileLock
from pipeline.base.retry import RetryPolicy
from pipeline.suites.hub.download import download_file
from pipeline.suites.hub.hub_cache import cached_folder
from pipeline.suites.hub.hub_requests import HUB_RETRIES
from pipeline.suites.hub.listing import Listing
from pipeline.suites.hub.remote import cache_folder, offline, repository_folder

FREE_SHARE = 0.5
"""Default budget: this share of the disk that the cache holds and that is free."""
POLL_S = 0.2
_CHARGE = ".bytes"
_MEASURED = ".measured"


class DiskCache:
    """The disk cache of this node."""

    def __init__(self, cache_gb: float | None = None, retries: RetryPolicy = HUB_RETRIES) -> None:
        self._root = cache_folder()
        self._cache_gb = cache_gb
        self._retries = retries

    @contextmanager
    def checkout(self, repository: str, commit: str, listing: Listing) -> Iterator[Path]:
        """Context manager: the folder of a checkpoint, downloaded if needed, and safe from removal.

        Waits for another worker's download of it, and for disk. Afterwards the folder counts as measured. Raises
        CheckpointError if it cannot be fetched or exceeds the budget.
        """
        cached = cached_folder(repository, commit, listing.wanted)
        if cached is not None:
            yield cached
            return
        folder = self._folder(repository, commit)
        with FileLock(folder.with_name(f"{commit}.lock")) as lock:
            try:
                while True:
                    lock.take(shared=False)
                    self._fill(repository, commit, listing, folder, ahead=False)
                    lock.take(shared=True)  # changing to a shared lock lets others in between
                    if _complete(folder, listing):
                        break
                yield folder
            finally:  # a failed download too: its parts stay for a later run, until their disk is needed
                with suppress(OSError):
                    (folder / _MEASURED).touch()

    def reserve_ahead(self, repository: str, commit: str, listing: Listing) -> bool:
        """Allot disk to a checkpoint that is needed soon; False if there is none now."""
        if cached_folder(repository, commit, listing.wanted) is not None:
            return True
        return self._reserve(self._folder(repository, commit), _size(listing), ahead=True)

    def fetch_ahead(self, repository: str, commit: str, listing: Listing) -> None:
        """Download a checkpoint that has disk; returns at once if another process is downloading it."""
        if cached_folder(repository, commit, listing.wanted) is not None:
            return
        folder = self._folder(repository, commit)
        with FileLock(folder.with_name(f"{commit}.lock")) as lock:
            if lock.take(shared=False, wait=False):
                self._fill(repository, commit, listing, folder, ahead=True)

    def _folder(self, repository: str, commit: str) -> Path:
        folder = repository_folder(repository) / "checkpoints" / commit
        make_folder(folder.parent)
        return folder

    def _fill(self, repository: str, commit: str, listing: Listing, folder: Path, *, ahead: bool) -> None:
        """Download the missing files of ``folder``, which the caller has locked exclusively."""
        if _complete(folder, listing):
            (folder / _MEASURED).unlink(missing_ok=True)
            return
        if offline():
            raise CheckpointError(
                f"it is not in {self._root} nor in the hub's cache, and offline mode is on (HF_HUB_OFFLINE)"
            )
        while not self._reserve(folder, _size(listing), ahead=ahead):
            if ahead:
                return  # its disk was taken for a checkpoint that a worker needs now
            time.sleep(POLL_S)  # the others are being read; wait for their readers
        for file in listing.wanted:
            download_file(repository, commit, file, folder, self._retries)

    def _reserve(self, folder: Path, size: int, *, ahead: bool) -> bool:
        """Allot ``size`` bytes to ``folder``, removing others to free disk; False if that is not enough."""
        with FileLock(self._root / ".lock") as lock:
            lock.take(shared=False)
            charges = {
                charge.parent: _number(charge) for charge in self._root.glob(f"*/checkpoints/*/{_CHARGE}")
            }
            charges.pop(folder, None)
            budget = self._budget(sum(charges.values()))
            if size > budget:
                raise CheckpointError(
                    f"it takes {size / 1e9:.3g} GB of disk, more than the {budget / 1e9:.3g} GB for downloads: raise "
                    "--cache-gb, or set HF_HOME to a larger disk"
                )
            for other in sorted(charges, key=_removal_order):
                if sum(charges.values()) + size <= budget:
                    break
                if ahead and not (other / _MEASURED).exists():
                    break
                if _remove(other):
                    del charges[other]
            if sum(charges.values()) + size > budget:
                return False
            make_folder(folder)
            try:
                (folder / _CHARGE).write_text(str(size))
                (folder / _MEASURED).unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(
                    f"cannot write {folder}: {error.strerror}; set HF_HOME elsewhere"
                ) from error
            return True

    def _budget(self, held: int) -> float:
        if self._cache_gb is not None:
            return self._cache_gb * 1e9
        return FREE_SHARE * (held + shutil.disk_usage(self._root).free)


def _size(listing: Listing) -> int:
    return sum(file.size for file in listing.wanted)


def _complete(folder: Path, listing: Listing) -> bool:
    paths = [(folder / file.name, file.size) for file in listing.wanted]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _removal_order(folder: Path) -> tuple[bool, float]:
    measured = folder / _MEASURED
    return not measured.exists(), (measured if measured.exists() else folder / _CHARGE).stat().st_mtime


def _remove(folder: Path) -> bool:
    """Remove a folder unless it is locked."""
    with FileLock(folder.with_name(f"{folder.name}.lock")) as lock:
        if not lock.take(shared=False, wait=False):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
