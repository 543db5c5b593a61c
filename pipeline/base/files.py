"""Atomic file writes, checksums, bounded reads, and a lock that ends with its owner.

A file is written to a temporary sibling, fsynced and renamed; the rename is the only commit point. The sibling's
name starts with a dot and ends in ``.tmp``, so no ``*.arrow`` glob matches it.

Arrow IPC has no checksums: a flipped byte reads as a wrong value. A *sealed* file therefore carries, in its schema
metadata, the sha256 of its own bytes with zeros in place of the digest. The next read finds any changed byte, in
data or metadata.

Files that are read back are not trusted: only regular files are read, no more bytes than the reader can use, and
JSON no deeper than ``NESTING`` levels.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base.errors import OutputError, ShardError

_SEAL = b"sha256"
_BLANK = b"0" * 64

JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read, bytes: a Trainer's log of a million updates fits."""
SHARD_BYTES = 2 * 2**30
"""Largest shard that is read, bytes; that of a 70b model with 35 variants has 20 MB."""
NESTING = 64
"""Deepest nesting of a JSON text; the project's own files have fewer than ten levels."""
_PIECE_BYTES = 2**24
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one step that survives a crash of the process or the machine.

    The folder must exist: a vanished output folder raises OutputError and is never recreated half-empty.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must reach the disk
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what was written before is intact: "
            "make the folder writable (or free space there) and run the same command again"
        ) from error


def open_regular(path: Path) -> io.FileIO:
    """Open ``path`` for unbuffered reading; raises OSError unless it is, or links to, a regular file.

    Never blocks, as opening a named pipe without a writer or a device would.
    """
    _wanted_regular(path, path.stat())  # checked before opening, because opening some devices has effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _wanted_regular(path, os.fstat(descriptor))
        return io.FileIO(descriptor, closefd=True)
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most_bytes: int) -> bytes:
    """All bytes of the regular file ``path``; raises OSError if it is not one or has more than ``most_bytes``.

    The error's ``strerror`` says which. Files of ``/proc`` are refused too: they have contents but no size, some
    without end.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = bytearray()
        while size <= most_bytes and len(data) <= most_bytes and (piece := file.read(_PIECE_BYTES)):
            data += piece
        size = max(size, os.fstat(file.fileno()).st_size)  # the file may have grown meanwhile
    if max(size, len(data)) > most_bytes:
        raise OSError(
            errno.EFBIG, f"it has {max(size, len(data)):,} bytes, wanted at most {most_bytes:,}", str(path)
        )
    if data and not size:
        raise OSError(errno.EINVAL, "it has contents but no size, so it is not a file on a disk", str(path))
    return bytes(data)


def load_json(path: Path, most_bytes: int = JSON_BYTES, *, finite: bool = True) -> Any:
    """The value in the JSON file ``path``; raises what :func:`read_regular` and :func:`parse_json` do."""
    return parse_json(read_regular(path, most_bytes), finite=finite)


def parse_json(data: bytes, *, finite: bool = True) -> Any:
    """The value of a JSON text in UTF-8.

    Raises ValueError if it is malformed, nested deeper than ``NESTING`` levels, holds a lone surrogate, which no
    file or terminal accepts, or, if ``finite``, holds NaN or infinity.
    """
    number = _finite if finite else float
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=number, parse_float=number)
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(NESTING + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            if b"\\u" in data:  # only an escape can make a lone surrogate
                _wanted_unicode("", value)
            return value
    raise _too_deep()


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _wanted_unicode(place: str, value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{place or 'it'} is {ascii(value)[:80]}, which is no Unicode text") from None
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _wanted_unicode(f"{place}[{index}]", inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            _wanted_unicode(f"a name in {place or 'it'}", key)
            _wanted_unicode(f"{place}.{key}" if place else key, inner)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:40]}: wanted finite numbers")
    return value


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {NESTING} levels")


def _wanted_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise OSError(errno.EINVAL, f"it is {what}, wanted a regular file", str(path))


def make_folder(path: Path) -> None:
    """Make ``path`` and its parents; raises OutputError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error


def remove_file(path: Path) -> None:
    """Remove ``path`` if it exists; raises OutputError if that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error


def sweep_temporaries(folder: Path) -> None:
    """Remove temporary files of killed writers from ``folder``. Call it only while holding its lock."""
    for leftover in folder.glob(".*.tmp"):
        remove_file(leftover)


def with_checksum(table: pa.Table) -> bytes:
    """Serialise ``table`` as an Arrow IPC file with a checksum."""
    blank = _ipc_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), _SEAL: _BLANK}))
    digest = hashlib.sha256(blank).hexdigest().encode()
    return _ipc_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), _SEAL: digest}))


def parse_checked(data: bytes, path: str) -> pa.Table:
    """The table in ``data``, which was read from ``path``; raises ShardError with the fault if a byte has changed."""
    try:
        table = pa.ipc.open_file(data).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"{path} is truncated or not an Arrow file: {error}") from error
    metadata = dict(table.schema.metadata or {})
    digest = metadata.pop(_SEAL, b"")
    if (
        len(digest) != len(_BLANK)
        or hashlib.sha256(data.replace(digest, _BLANK)).hexdigest().encode() != digest
    ):
        raise ShardError(f"{path} does not match its checksum: it was altered after it was written")
    return table.replace_schema_metadata(metadata)


def _ipc_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def open_lock_file(path: Path) -> int:
    """A descriptor of the lock file ``path``, which is made where it is absent; OutputError where it cannot be."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            _wanted_regular(path, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; make its folder writable, or choose another"
        ) from error
    return descriptor
