"""A lock file that any number of processes and threads of a node can wait for."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from pipeline.base.errors import OutputError


class FileLock:
    """Held from :meth:`take` to the end of the block, or to the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; make its folder writable, or choose another"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def take(self, *, shared: bool, wait: bool = True) -> bool:
        """Takes the lock, instead of the one it may hold already; False where it is taken and ``wait`` is not."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
