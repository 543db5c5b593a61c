"""Check that the files of a checkpoint stay the same while they are read.

Its weights are hashed by one read and used by others, minutes apart where layers are read one at a time. So that no
number is ever kept under the hash of other weights, the files' metadata (size, time of change, inode) is taken
before the first read and compared after the last. A file that is written over has another time; one that is
replaced, which is what a download into a cache of links does too, has another inode, whatever its date. Links to a
file and its permissions may change meanwhile: they are not its content.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.base.errors import CheckpointError
from pipeline.suites.checkpoint_files import weight_files

_CHANGED = "changed while it was being read: run the same command again once nothing writes there"
_Told = dict[Path, tuple[int, int, int]]


class Unchanged:
    """The metadata of a checkpoint's files, including config.json.

    Used as a context manager around the reads, it calls :meth:`check` at the end, also if the block fails: changed
    files are the better reason.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError like :func:`weight_files`."""
        self._folder = folder
        self._before = _told(folder)

    def check(self) -> None:
        """Raise CheckpointError if the files have changed, OSError if the file system fails."""
        try:
            now = _told(self._folder)
        except (CheckpointError, FileNotFoundError) as error:  # deleted, or deleted since they were listed
            raise CheckpointError(f"{self._folder} {_CHANGED} ({error})") from error
        changed = sorted(file for file in self._before | now if self._before.get(file) != now.get(file))
        if changed:
            raise CheckpointError(f"{changed[0]} {_CHANGED}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.check()
        elif isinstance(error, Exception):  # an interrupt passes through
            with suppress(OSError):  # an unavailable file system is in the error that is being raised
                self.check()


def _told(folder: Path) -> _Told:
    stats = [(file, file.stat()) for file in (*weight_files(folder), folder / "config.json")]
    return {file: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for file, stat in stats}
