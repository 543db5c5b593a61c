"""What every store can do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Store(Protocol):
    """Files of bytes by name (``folder/file``) under one location.

    Methods raise OutputError, naming the place and what to do, where the store itself fails: unwritable, full, gone,
    unreachable. Safe to use from several threads.
    """

    readers: int
    """Reads that are worth having under way at a time."""

    @property
    def location(self) -> str:
        """Absolute path or URL: what another process, on another node, opens it by."""

    def place(self, name: str) -> str:
        """Where ``name`` is, for messages."""

    def check(self) -> None:
        """Fails early where the store cannot be used at all (no such bucket: UsageError). Makes nothing."""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """The contents, None where there is none; UnreadableError where only this file cannot be read, such as one
        with more than ``most_bytes``, or what is no regular file.
        """

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self, folder: str, suffix: str) -> list[str]:
        """Names, relative to ``folder``, of the files in it that end in ``suffix``, sorted; one listing."""

    def write(self, name: str, data: bytes) -> None:
        """Puts ``data`` there in one step; what was there is seen until then, and stays if it fails."""

    def remove(self, name: str) -> None:
        """Removes the file if it is there."""

    def make_folder(self, folder: str) -> None:
        """Makes a folder that files can be written to ("" for the location itself)."""

    def sweep(self, *folders: str) -> None:
        """Removes what killed writers left there. Only for the holder of the lock."""

    def lock(self) -> AbstractContextManager[None]:
        """Held by one driver at a time; FolderLockedError names the other. A dead driver does not keep it."""
