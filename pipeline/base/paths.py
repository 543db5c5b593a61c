"""Paths that a person typed, and folders that appear whole or not at all."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.errors import OutputError, UsageError


def user_path(text: str, what: str) -> Path:
    """Expand ``~`` in the path that a user typed for ``what``. Whether it exists is for the caller to check.

    Raises UsageError for a path that cannot be looked up at all (unknown ``~user``, too long, not permitted).
    """
    shown = repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except RuntimeError as error:
        raise UsageError(
            f"{what} {shown}: there is no such user's home folder; write the whole path, or ./~... for a folder "
            "whose name starts so"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} {shown} cannot be looked up ({reason}); check the path") from error
    return path


def nearest(path: Path, fits: Callable[[Path], bool]) -> str:
    """The end of a message about a ``path`` that is not there: those beside it with the nearest names, if ``fits``
    accepts them, or the folder that is not there either.
    """
    parent = path.parent
    if not parent.is_dir():
        return f"; neither does {parent}"
    try:
        near = difflib.get_close_matches(
            path.name, [each.name for each in parent.iterdir() if fits(each)], n=3
        )
    except OSError:
        near = []
    return f"; did you mean {' or '.join(str(parent / name) for name in near)}?" if near else ""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Context manager: gives a temporary sibling to fill, which is synced and renamed to ``path`` at the end.

    An exception in the block leaves nothing at ``path``, which must not exist yet. Raises OutputError if the disk
    cannot be written. The sibling's name is hidden.
    """
    sibling = path.with_name(f".{path.name}.tmp")
    try:
        shutil.rmtree(sibling, ignore_errors=True)  # left by a killed process
        sibling.mkdir(parents=True)
        yield sibling
        for each in (*sibling.rglob("*"), sibling):
            _sync(each)
        sibling.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what was written before is intact: make the "
            "folder writable (or free space there) and run the same command again"
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
