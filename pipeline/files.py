"""Files that are either whole or not there, and a lock that dies with its owner.

A file is written to a temporary sibling, fsynced and renamed; the rename is the only commit point. The sibling's
name starts with a dot and ends in ``.tmp``, so no ``*.arrow`` glob matches it.

Arrow IPC has no checksums: a flipped byte reads as a wrong value. A *sealed* file therefore carries, in its schema
metadata, the sha256 of its own bytes with the digest's place filled by zeros, so that any changed byte, in the data
as in the metadata, is found at the next read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from pipeline.errors import FolderLockedError, OutputError, ShardError

_SEAL = b"sha256"
_BLANK = b"0" * 64


def write_atomically(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path`` in one step that survives a crash of the process or the machine.

    The folder must exist: a vanished output folder is an OutputError, never made again half-empty.
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


def make_folder(path: Path) -> None:
    """Makes ``path`` and its parents; OutputError where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error


def remove_file(path: Path) -> None:
    """Removes ``path`` if it is there; OutputError where that is impossible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error


def sweep_temporaries(folder: Path) -> None:
    """Removes what killed writers left in ``folder``. Only for the holder of its lock."""
    for leftover in folder.glob(".*.tmp"):
        remove_file(leftover)


def seal(table: pa.Table) -> bytes:
    """``table`` as an Arrow IPC file that can tell whether it was altered."""
    blank = _ipc_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), _SEAL: _BLANK}))
    digest = hashlib.sha256(blank).hexdigest().encode()
    return _ipc_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), _SEAL: digest}))


def unseal(path: Path) -> pa.Table:
    """The table sealed at ``path``, its seal removed; ShardError names what is wrong with the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror or error}") from error
    return unseal_bytes(data, str(path))


def unseal_bytes(data: bytes, path: str) -> pa.Table:
    """As :func:`unseal`, of what was read from ``path``."""
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


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file ``path`` for the length of the block; FolderLockedError names the other holder.

    The kernel releases the lock when its process dies, however it dies.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise FolderLockedError(
                f"{path.parent} is in use by {holder}: wait for it to finish, stop it, or choose another --out"
            ) from None
        except OSError as error:
            raise OutputError(f"cannot lock {path}: {error.strerror or error}") from error
        yield
    finally:
        os.close(descriptor)
