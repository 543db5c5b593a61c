"""Lock files. The kernel releases a lock when its process dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pipeline.base.errors import FolderLockedError, OutputError
from pipeline.base.files import open_lock_file


class FileLock:
    """A lock file that any number of processes and threads of a node can wait for.

    Held from :meth:`take` to the end of the block.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        """OutputError where the lock file cannot be made."""
        self._descriptor = open_lock_file(self._path)
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
        except OSError as error:
            raise OutputError(f"cannot lock {self._path}: {error.strerror or error}") from error
        return True

    def sign(self) -> None:
        """Writes this process into the lock file."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def holder(self) -> str:
        """The process that signed the lock file."""
        return os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` for the length of the block; FolderLockedError names the other holder."""
    with FileLock(path) as lock:
        if not lock.take(shared=False, wait=False):
            raise FolderLockedError(
                f"{path.parent} is in use by {lock.holder()}: wait for it to finish, stop it, or choose another --out"
            )
        lock.sign()
        yield
