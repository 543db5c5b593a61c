"""One checkpoint's weights read in the background while another is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")
Key = tuple[Path, str | None]


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

        Who asks takes it or forgets it: until then the next is not begun.
        """
        with self._lock:
            self._asked.setdefault((folder, expected_sha256), None)
            self._begin_next()

    def take(self, folder: Path, expected_sha256: str | None) -> Loaded:
        """What ``load`` returns or raises for ``folder``, from the background where that has been started."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            future = future or self._thread.submit(self._load, folder, expected_sha256)
            self._begin_next()
        return future.result()

    def forget(self, folder: Path, expected_sha256: str | None) -> None:
        """Lets go what was asked for and not taken."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            if future is not None:
                future.cancel()
            self._begin_next()

    def _begin_next(self) -> None:
        """Begins the oldest, if nothing that is begun waits to be taken."""
        if self._asked and not any(self._asked.values()):
            key = next(iter(self._asked))
            self._asked[key] = self._thread.submit(self._load, *key)
