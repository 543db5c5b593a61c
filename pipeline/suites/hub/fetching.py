"""From a checkpoint to its folder, and the checkpoints after it fetched meanwhile."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.base.errors import CheckpointError, CollapseError
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.foreign import what_it_is
from pipeline.suites.hub.backoff import Backoff, reason
from pipeline.suites.hub.disk_cache import DiskCache
from pipeline.suites.hub.listing import Listing
from pipeline.suites.hub.remote import list_commit
from pipeline.suites.suite import HUB

CONNECTIONS = 3
"""Checkpoints that one worker fetches at a time: one connection to a hub is slower than a disk or a GPU."""
ROOM_POLL_S = 0.3
PATIENCE = Backoff(tries=3)
"""Of fetching ahead: whoever needs the checkpoint in the end has more."""


def fetch(checkpoint: Checkpoint) -> Path:
    """The local folder with config.json and weights; downloads it if it is on a hub.

    ``CheckpointError`` with the reason where the folder is missing or incomplete, or the hub does not give it.
    Room that other downloads need may later be made by removing it: :func:`checkout` keeps it while it is used.
    """
    with checkout(checkpoint) as folder:
        return folder


@contextmanager
def checkout(checkpoint: Checkpoint, cache_gb: float | None = None) -> Iterator[Path]:
    """As :func:`fetch`, for the length of a block; afterwards a download may be removed to make room."""
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
    """Fetches ahead of one worker, in threads of its own."""

    def __init__(self, cache_gb: float | None = None) -> None:
        self._store = DiskCache(cache_gb, PATIENCE)
        self._waiting: deque[Checkpoint] = deque()
        self._done: Callable[[Checkpoint], bool] = lambda _: False
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []

    def ahead(self, checkpoints: Sequence[Checkpoint], done: Callable[[Checkpoint], bool]) -> None:
        """Begins to fetch ``checkpoints``, soonest first, instead of what was asked for before.

        Returns at once. ``done`` says whether one need not be fetched any more. A failure here is silent: the
        worker that needs the checkpoint meets it again and names it.
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
            with self._turn:  # room goes to the soonest first; only the downloads run side by side
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._waiting))
                    checkpoint = self._waiting.popleft()
                place = self._place_with_room(checkpoint)
            if place is not None:
                with suppress(CollapseError):
                    self._store.fetch_ahead(*place)

    def _place_with_room(self, checkpoint: Checkpoint) -> tuple[str, str, Listing] | None:
        """Where it is, once there is room for it; None where it need not be fetched any more, or not yet."""
        with suppress(CollapseError):
            place = _listed(checkpoint)
            while not self._done(checkpoint) and not self._superseded(checkpoint):
                if self._store.reserve_ahead(*place):
                    return place
                time.sleep(ROOM_POLL_S)
        return None

    def _superseded(self, checkpoint: Checkpoint) -> bool:
        """Whether a newer request names something else first: that is then fetched first."""
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
