"""The interface of every store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Store(Protocol):
    """Files of bytes by name (``folder/file``) under one location.

    Methods raise OutputError, which names the place and what to do, if the store itself fails: unwritable, full,
    gone, unreachable. Safe to use from several threads.
    """

    readers: int
    """Useful number of concurrent reads."""

    @property
    def location(self) -> str:
        """Absolute path or URL, with which a process on another node opens the store."""

    def place(self, name: str) -> str:
        """Path or URL of ``name``, for messages."""

    def check(self) -> None:
        """Raise early if the store cannot be used at all (no such bucket: UsageError). Creates nothing."""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """The contents; None if the file is absent. Raises UnreadableError if only this file cannot be read: it
        exceeds ``most_bytes`` or is no regular file.
        """

    def exists(self, name: str) -> bool:
        """Whether the file exists."""

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names, relative to ``folder``, of its files that end in ``suffix``; one listing."""

    def write(self, name: str, data: bytes) -> None:
        """Write ``data`` in one step; readers see the former contents until then, and they stay if the write fails."""

    def remove(self, name: str) -> None:
        """Remove the file if it exists."""

    def make_folder(self, folder: str) -> None:
        """Make a folder ("": the location itself) that files can be written to."""

    def sweep(self, *folders: str) -> None:
        """Remove temporary files of killed writers. Call it only while holding the lock."""

    def lock(self) -> AbstractContextManager[None]:
        """Context manager: the one driver's lock, which a dead one loses. FolderLockedError names another holder."""
