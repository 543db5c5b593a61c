"""A folder on this machine, or on a file system that nodes share (how: ``pipeline.base.files``)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.base.errors import UnreadableError
from pipeline.base.files import make_folder, read_regular, remove_file, sweep_temporaries, write_atomically
from pipeline.base.locks import exclusive


class LocalStore:
    """See ``pipeline.store.interface.Store``. The lock is the kernel's and dies with its process."""

    readers = 1

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def location(self) -> str:
        return str(self._path.absolute())

    def place(self, name: str) -> str:
        return str(self._path / name)

    def check(self) -> None:
        """Do nothing: a missing folder will be made."""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        try:
            return read_regular(self._path / name, most_bytes)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UnreadableError(
                f"{self._path / name} cannot be read: {error.strerror or error}; make it readable, or remove it"
            ) from error

    def exists(self, name: str) -> bool:
        return (self._path / name).is_file()

    def names(self, folder: str, suffix: str) -> list[str]:
        return sorted(path.name for path in (self._path / folder).glob(f"*{suffix}"))

    def write(self, name: str, data: bytes) -> None:
        write_atomically(self._path / name, data)

    def remove(self, name: str) -> None:
        remove_file(self._path / name)

    def make_folder(self, folder: str) -> None:
        make_folder(self._path / folder)

    def sweep(self, *folders: str) -> None:
        for folder in folders:
            sweep_temporaries(self._path / folder)

    def lock(self) -> AbstractContextManager[None]:
        return exclusive(self._path / ".lock")
