"""One checkpoint's weights read in the background while another is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")
Key = tuple[Path, str | None]

MOST_ASKED = 3
"""Folders that may be asked for and not taken: as many as a worker holds tasks (``driver.resources.GPU_QUEUE``)."""


class Prefetcher(Generic[Loaded]):
    """Runs ``load(folder, expected_sha256)`` one call ahead, in one thread.

    One at most is loaded and not taken, so that memory holds two: the one that was taken and the next.
    """

    def __init__(self, load: Callable[[Path, str | None], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._lock = threading.RLock()  # several tasks of a worker may begin at the same time
        self._asked: dict[Key, Future[Loaded] | None] = {}
        """Oldest first; None = not begun yet."""

    def start(self, folder: Path, expected_sha256: str | None) -> None:
        """Asks for ``folder``: loading begins now, or when what was asked for before it is taken.

        Before there are more than ``MOST_ASKED`` the oldest is forgotten: its task ended without taking it.
        """
        with self._lock:
            if (folder, expected_sha256) in self._asked:
                return
            while len(self._asked) >= MOST_ASKED:
                forgotten = self._asked.pop(next(iter(self._asked)))
                if forgotten is not None:
                    forgotten.cancel()
            self._asked[folder, expected_sha256] = None
            self._begin_next()

    def take(self, folder: Path, expected_sha256: str | None) -> Loaded:
        """What ``load`` returns or raises for ``folder``, from the background where that has been started."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            future = future or self._thread.submit(self._load, folder, expected_sha256)
            self._begin_next()
        return future.result()

    def _begin_next(self) -> None:
        """Begins the oldest, if nothing that is begun waits to be taken."""
        if self._asked and not any(self._asked.values()):
            key = next(iter(self._asked))
            self._asked[key] = self._thread.submit(self._load, *key)
