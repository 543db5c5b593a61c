"""A prefix of an object store, through ``pyarrow.fs``: no dependency beyond pyarrow, which is needed anyway.

A small object is one PUT, all or nothing. A large one (a fork's state) is more than pyarrow puts into one request,
and pyarrow 26 *completes* a multi-part upload that has failed, with the parts that arrived: the object is then there,
cut off. A large object therefore goes to its own key under ``.tmp/``, its size is checked, and the store copies it
to its name, which is again one step for a reader.

The client retries a request for a few seconds; every call here retries for ``PATIENCE_S`` seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

from pipeline.base.errors import OutputError, UnreadableError, UsageError
from pipeline.base.retry import RetryPolicy, retried
from pipeline.store.address import Address
from pipeline.store.clients import endpoint, file_system
from pipeline.store.faults import explain
from pipeline.store.lease import hold

SMALL_BYTES = 8 * 2**20
"""Objects up to this size are one PUT (pyarrow: up to 10 MiB)."""

PATIENCE_S = 60.0
"""Seconds for which a request that failed for a transient reason is retried."""

LONGEST_PAUSE_S = 8.0

TEMPORARY, LEASES = ".tmp", ".lock"
"""Folders of unfinished uploads and of the drivers' leases."""

T = TypeVar("T")


class ObjectStore:
    """See ``pipeline.store.interface.Store``. The lock is a lease that expires (``pipeline.store.lease``)."""

    readers = 32

    def __init__(self, address: Address, patience_s: float = PATIENCE_S) -> None:
        self._address = address
        self._patience_s = patience_s

    @property
    def location(self) -> str:
        return str(self._address)

    def place(self, name: str) -> str:
        return f"{self._address}/{name}" if name else str(self._address)

    def check(self) -> None:
        """UsageError if the bucket does not exist, OutputError, without long retries, if it cannot be reached."""
        self._require_bucket(patience_s=0.0)

    def _require_bucket(self, patience_s: float | None = None) -> None:
        bucket = self._address.bucket
        info = self._try("use", "", lambda fs: fs.get_file_info(bucket), patience_s)
        if info.type.name == "NotFound":
            server = endpoint() if self._address.scheme == "s3" else None
            raise UsageError(
                f"{self._address}: there is no bucket {bucket}{f' at {server}' if server else ''}: create it, or "
                "correct its name"
            )

    def read(self, name: str, most_bytes: int) -> bytes | None:
        def get(fs: Any) -> bytes | int | None:
            try:
                with fs.open_input_file(self._address.key(name)) as file:
                    size: int = file.size()
                    data: bytes = file.read() if size <= most_bytes else b""
                    return data if size <= most_bytes else size
            except FileNotFoundError:
                return None

        data = self._try("read", name, get)
        if isinstance(data, int):
            raise UnreadableError(
                f"{self.place(name)} cannot be read: it has {data:,} bytes, wanted at most {most_bytes:,}; remove it"
            )
        if data is None:
            self._require_bucket()  # a missing one looks the same
        return data

    def exists(self, name: str) -> bool:
        info = self._try("look up", name, lambda fs: fs.get_file_info(self._address.key(name)))
        return bool(info.is_file)

    def names(self, folder: str, suffix: str) -> list[str]:
        return sorted(name for name in self.stamps(folder) if name.endswith(suffix))

    def stamps(self, folder: str) -> dict[str, float]:
        """Name -> time of writing of each file in ``folder``, in seconds of the store's own clock."""

        def listing(fs: Any) -> dict[str, float]:
            from pyarrow.fs import FileSelector

            found = fs.get_file_info(FileSelector(self._address.key(folder), allow_not_found=True))
            return {info.base_name: info.mtime.timestamp() for info in found if info.is_file}

        found = self._try("list", folder, listing)
        if not found:
            self._require_bucket()
        return found

    def write(self, name: str, data: bytes) -> None:
        key = self._address.key(name)
        if len(data) <= SMALL_BYTES:
            self._try("write", name, lambda fs: _put(fs, key, data))
            return
        temporary = f"{TEMPORARY}/{secrets.token_hex(8)}"
        try:
            self._try("write", name, lambda fs: _put_whole(fs, self._address.key(temporary), data))
            self._try("write", name, lambda fs: fs.copy_file(self._address.key(temporary), key))
        finally:
            with suppress(OutputError):  # otherwise the next driver removes it
                self._remove(temporary, patience_s=0.0)

    def remove(self, name: str) -> None:
        self._remove(name)

    def _remove(self, name: str, patience_s: float | None = None) -> None:
        def delete(fs: Any) -> None:
            try:
                fs.delete_file(self._address.key(name))
            except FileNotFoundError:
                return

        self._try("remove", name, delete, patience_s)

    def make_folder(self, folder: str) -> None:
        """Do nothing: an object needs no folder."""

    def sweep(self, *_: str) -> None:
        """Remove unfinished uploads; those of all folders lie in one."""
        for name in self.names(TEMPORARY, ""):
            self.remove(f"{TEMPORARY}/{name}")

    def lock(self) -> AbstractContextManager[None]:
        return hold(self, LEASES)

    def _try(self, verb: str, name: str, action: Callable[[Any], T], patience_s: float | None = None) -> T:
        """``action`` on the file system, tried again while it fails for a passing reason; OutputError in the end."""
        for_s = self._patience_s if patience_s is None else patience_s
        policy = RetryPolicy(tries=None, for_s=for_s, first_s=0.3, most_s=LONGEST_PAUSE_S)
        scheme = self._address.scheme
        try:
            return retried(
                lambda: action(file_system(scheme, self._address.bucket, endpoint())),
                policy,
                lambda error: isinstance(error, OSError) and not explain(error, scheme).lasting,
            )
        except OSError as error:
            raise OutputError(
                f"cannot {verb} {self.place(name)}: {explain(error, scheme).reason}; what was written before is "
                "intact, and the same command resumes"
            ) from None


def _put(fs: Any, key: str, data: bytes) -> None:
    with fs.open_output_stream(key) as stream:
        stream.write(data)


def _put_whole(fs: Any, key: str, data: bytes) -> None:
    """Like :func:`_put`; raises OSError if only a part of the object arrived."""
    _put(fs, key, data)
    size = fs.get_file_info(key).size
    if size != len(data):
        raise OSError(f"{size} of {len(data)} bytes arrived")
