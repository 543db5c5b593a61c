"""One checkpoint's weights read in the background while another is measured."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")


class Prefetcher(Generic[Loaded]):
    """Runs ``load(folder, expected_sha256)`` one call ahead, in one thread."""

    def __init__(self, load: Callable[[Path, str | None], Loaded]) -> None:
        self._load = load
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._lock = threading.RLock()  # two tasks of a worker may begin at the same time
        self._begun: dict[tuple[Path, str | None], Future[Loaded]] = {}

    def start(self, folder: Path, expected_sha256: str | None) -> None:
        """Begins to load ``folder``. Two at most are kept, the one about to be taken and its successor: before a
        third, the oldest is forgotten.
        """
        key = (folder, expected_sha256)
        with self._lock:
            if key in self._begun:
                return
            while len(self._begun) >= 2:
                self._begun.pop(next(iter(self._begun))).cancel()
            self._begun[key] = self._thread.submit(self._load, folder, expected_sha256)

    def take(self, folder: Path, expected_sha256: str | None) -> Loaded:
        """What ``load`` returns or raises for ``folder``, from the background where that has been started."""
        with self._lock:
            self.start(folder, expected_sha256)
            future = self._begun.pop((folder, expected_sha256))
        return future.result()
