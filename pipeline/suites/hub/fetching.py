"""Fetch a checkpoint's folder, and prefetch the checkpoints after it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.base.errors import CheckpointError, CollapseError
from pipeline.base.retry import RetryPolicy
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.foreign import what_it_is
from pipeline.suites.hub.disk_cache import DiskCache
from pipeline.suites.hub.hub_requests import reason
from pipeline.suites.hub.listing import Listing
from pipeline.suites.hub.remote import list_commit
from pipeline.suites.suite import HUB

CONNECTIONS = 3
"""Checkpoints that a worker fetches at once: one connection to a hub is slower than a disk or a GPU."""
ROOM_POLL_S = 0.3
PREFETCH_RETRIES = RetryPolicy(tries=3)
"""The worker that needs the checkpoint in the end tries more often."""


def fetch(checkpoint: Checkpoint) -> Path:
    """The local folder with config.json and weights; downloaded if it is on a hub.

    Raises CheckpointError if the folder is missing or incomplete, or the hub does not deliver it. A later download
    may remove the folder to free disk: :func:`checkout` keeps it while it is used.
    """
    with checkout(checkpoint) as folder:
        return folder


@contextmanager
def checkout(checkpoint: Checkpoint, cache_gb: float | None = None) -> Iterator[Path]:
    """Context manager of :func:`fetch`; afterwards a downloaded folder may be removed to free disk."""
    if not checkpoint.location.startswith(HUB):
        folder = Path(checkpoint.location)
        weight_files(folder)
        yield folder
        return
    repository, commit, listing = _listed(checkpoint)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(DiskCache(cache_gb).checkout(repository, commit, listing))
            weight_files(folder)
        except CheckpointError as error:
            raise CheckpointError(
                f"{repository} revision {checkpoint.revision} (commit {commit[:8]}): {error}"
            ) from error
        yield folder


class Fetcher:
    """Prefetches checkpoints for one worker, in background threads."""

    def __init__(self, cache_gb: float | None = None) -> None:
        self._store = DiskCache(cache_gb, PREFETCH_RETRIES)
        self._waiting: deque[Checkpoint] = deque()
        self._done: Callable[[Checkpoint], bool] = lambda _: False
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []

    def ahead(self, checkpoints: Sequence[Checkpoint], done: Callable[[Checkpoint], bool]) -> None:
        """Start to fetch ``checkpoints``, the next one first; replaces the former request.

        Returns at once. ``done`` tells whether a checkpoint is no longer needed. A failure here is silent: the
        worker that needs the checkpoint fails again and names the reason.
        """
        hub = [checkpoint for checkpoint in checkpoints if checkpoint.location.startswith(HUB)]
        with self._changed:
            self._waiting = deque(hub)
            self._done = done
            self._changed.notify_all()
        while hub and len(self._threads) < min(CONNECTIONS, len(hub)):
            thread = threading.Thread(target=self._run, daemon=True, name="fetch ahead")
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while True:
            with self._turn:  # disk goes to the next checkpoint first; only the downloads run in parallel
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._waiting))
                    checkpoint = self._waiting.popleft()
                place = self._place_with_room(checkpoint)
            if place is not None:
                with suppress(CollapseError):
                    self._store.fetch_ahead(*place)

    def _place_with_room(self, checkpoint: Checkpoint) -> tuple[str, str, Listing] | None:
        """Its place once it has disk; None if it is no longer needed or must wait."""
        with suppress(CollapseError):
            place = _listed(checkpoint)
            while not self._done(checkpoint) and not self._superseded(checkpoint):
                if self._store.reserve_ahead(*place):
                    return place
                time.sleep(ROOM_POLL_S)
        return None

    def _superseded(self, checkpoint: Checkpoint) -> bool:
        """Whether a newer request starts with another checkpoint, which is then fetched first."""
        with self._changed:
            return bool(self._waiting) and checkpoint in self._waiting


def _listed(checkpoint: Checkpoint) -> tuple[str, str, Listing]:
    """Repository, commit and files of a checkpoint on a hub, as they were when its suite was opened."""
    repository = checkpoint.location.removeprefix(HUB)
    if checkpoint.commit is None:
        raise CheckpointError(f"{checkpoint.revision} is not pinned to a commit: open its suite again")
    try:
        listing = list_commit(repository, checkpoint.commit)
    except Exception as error:
        raise CheckpointError(
            f"{repository} revision {checkpoint.revision} cannot be listed: {reason(error)}"
        ) from error
    if not listing.weights:
        what = what_it_is(listing.names)
        raise CheckpointError(
            f"{repository} revision {checkpoint.revision} has no safetensors and no pytorch_model*.bin"
            + ("" if what is None else f": it {what}")
        )
    if not checkpoint.content_id:
        raise CheckpointError(
            f"{repository} revision {checkpoint.revision} could not be listed when the run began and can be now: "
            "run the same command again"
        )
    return repository, checkpoint.commit, listing
