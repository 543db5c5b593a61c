"""A lock file for processes and threads of a node, which can wait for it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from pipeline.base.errors import OutputError


class FileLock:
    """A lock that is held from :meth:`take` to the end of the block or of the process."""

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
        """Take the lock, in place of one held already; False if another holds it and ``wait`` is False."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
