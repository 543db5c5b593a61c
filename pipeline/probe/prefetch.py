"""One checkpoint's weights read in the background while another is measured."""

from __future__ import annotations

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
        self._key: tuple[Path, str | None] | None = None
        self._future: Future[Loaded] | None = None

    def start(self, folder: Path, expected_sha256: str | None) -> None:
        """Begins to load; what was prefetched before and not taken is dropped."""
        self.drop()
        self._key = (folder, expected_sha256)
        self._future = self._thread.submit(self._load, folder, expected_sha256)

    def take(self, folder: Path, expected_sha256: str | None) -> Loaded:
        """What ``load`` returns or raises for ``folder``, from the background where that is what was begun."""
        if self._key != (folder, expected_sha256):
            self.start(folder, expected_sha256)
        assert self._future is not None
        future, self._future, self._key = self._future, None, None
        return future.result()

    def drop(self) -> None:
        """Forgets what was begun."""
        if self._future is not None:
            self._future.cancel()
        self._future, self._key = None, None
