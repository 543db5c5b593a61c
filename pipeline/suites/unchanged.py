"""Whether the files of a checkpoint stay the same while they are read.

Its weights are hashed by one read and used by others, minutes apart where layers are read one at a time. So that no
number is ever kept under the hash of other weights, what the file system says of the files (size, time of change,
inode) is taken before the first read and compared after the last. A file that is written over has another time; one
that is replaced, which is what a download into a cache of links does too, has another inode, whatever its date. Links
to a file and its permissions may change meanwhile: they are not its content.
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
    """A checkpoint's files as they are now, config.json among them.

    As a context manager around the reads it makes :meth:`check` at the end, also where the block fails: that its files
    changed is the better reason.
    """

    def __init__(self, folder: Path) -> None:
        """``CheckpointError`` as from :func:`weight_files`."""
        self._folder = folder
        self._before = _told(folder)

    def check(self) -> None:
        """``CheckpointError`` where they are others by now, OSError where the file system does not say."""
        try:
            now = _told(self._folder)
        except (CheckpointError, FileNotFoundError) as error:  # gone, or gone since they were listed
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
        elif isinstance(error, Exception):  # an interrupt stays one
            with suppress(OSError):  # a file system that is away is told by the error that is there
                self.check()


def _told(folder: Path) -> _Told:
    stats = [(file, file.stat()) for file in (*weight_files(folder), folder / "config.json")]
    return {file: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for file, stat in stats}
