"""What is to be known of one checkpoint, such as its weights, read in the background while another is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")
Key = tuple[Path, str | None]


class Prefetcher(Generic[Loaded]):
    """Runs ``load(folder, expected_sha256)`` ``most`` calls ahead, in as many threads.

    No more than ``most`` are begun and not taken. Of one, memory holds two: the one that was taken and the next.
    """

    def __init__(self, load: Callable[[Path, str | None], Loaded], most: int = 1) -> None:
        self._load, self._most = load, most
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="prefetch")
        self._lock = threading.RLock()  # several tasks of a worker may begin at the same time
        self._asked: dict[Key, Future[Loaded] | None] = {}
        """Oldest first; None = not begun yet."""

    def start(self, folder: Path, expected_sha256: str | None) -> None:
        """Asks for ``folder``: loading begins now, or when enough of what was asked for before it is taken.

        Who asks takes it or forgets it: until then it counts.
        """
        with self._lock:
            self._asked.setdefault((folder, expected_sha256), None)
            self._begin_next()

    def take(self, folder: Path, expected_sha256: str | None) -> Loaded:
        """What ``load`` returns or raises for ``folder``, from the background where that has been started."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            future = future or self._threads.submit(self._load, folder, expected_sha256)
            self._begin_next()
        try:
            return future.result()
        finally:
            del future  # an error that it holds would hold it in turn, and with it what had been loaded

    def forget(self, folder: Path, expected_sha256: str | None) -> None:
        """Lets go what was asked for and not taken."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            if future is not None:
                future.cancel()
            self._begin_next()

    def _begin_next(self) -> None:
        """Begins the oldest, as long as fewer than ``most`` that are begun wait to be taken."""
        waiting = [key for key, future in self._asked.items() if future is None]
        begun = len(self._asked) - len(waiting)
        for key in waiting[: self._most - begun]:
            self._asked[key] = self._threads.submit(self._load, *key)
