"""Loads the next checkpoint in background threads while the current one is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")
Key = tuple[Path, str | None]


class Prefetcher(Generic[Loaded]):
    """Runs ``load(folder, expected_sha256)`` up to ``most`` calls ahead, in as many threads.

    At most ``most`` calls are started and not taken. With one, memory holds two results: the taken one and the next.
    """

    def __init__(self, load: Callable[[Path, str | None], Loaded], most: int = 1) -> None:
        self._load, self._most = load, most
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="prefetch")
        self._lock = threading.RLock()  # several tasks of a worker may start at the same time
        self._asked: dict[Key, Future[Loaded] | None] = {}
        """Requests, oldest first; None = not started yet."""

    def start(self, folder: Path, expected_sha256: str | None) -> None:
        """Request ``folder``: loading starts now, or when enough earlier requests are taken.

        The caller must take or forget it; until then it counts.
        """
        with self._lock:
            self._asked.setdefault((folder, expected_sha256), None)
            self._begin_next()

    def take(self, folder: Path, expected_sha256: str | None) -> Loaded:
        """Result or exception of ``load`` for ``folder``, from the background if started."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            future = future or self._threads.submit(self._load, folder, expected_sha256)
            self._begin_next()
        try:
            return future.result()
        finally:
            del (
                future
            )  # breaks the reference cycle between error and request, which would keep the loaded weights

    def forget(self, folder: Path, expected_sha256: str | None) -> None:
        """Discard the requests that were not taken."""
        with self._lock:
            future = self._asked.pop((folder, expected_sha256), None)
            if future is not None:
                future.cancel()
            self._begin_next()

    def _begin_next(self) -> None:
        """Start the oldest requests while fewer than ``most`` started ones wait to be taken."""
        waiting = [key for key, future in self._asked.items() if future is None]
        begun = len(self._asked) - len(waiting)
        for key in waiting[: self._most - begun]:
            self._asked[key] = self._threads.submit(self._load, *key)
