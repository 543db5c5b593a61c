"""The event log of a run: one JSON line per event, for people and for tools that watch.

No decision depends on it: the shards alone say what is done. Each line is one object with ``time`` (UTC, on the
driver's machine), ``event`` and its fields:

==============  ====================================================================================
started         command, host, pid, expected, there (shards of earlier runs), to_do
worker_joined   host, pid, node
worker_lost     host, pid, node, reason; ``stopped: true`` where the driver itself killed it
done            key, seconds, host, busy_s, idle_s
failed          key, reason, host, deaths
advanced        key, updates, of: a run of a fork experiment has saved its state after so many updates
retried         key, reason, attempt
stopped         reason: the run ended early; the same command resumes
finished        done, failed, seconds, idle_share
==============  ====================================================================================
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pipeline.base.errors import OutputError
from pipeline.base.files import open_regular, parse_json
from pipeline.base.typed_json import from_json

SYNC_EVERY_S = 1.0
"""Seconds of lines that a crash of the machine (not of the process) may lose."""
PUT_EVERY_S = 15.0
"""Seconds between two writes of a log to an object store."""


class OnEvent(Protocol):
    """Takes an event by name with its fields."""

    def __call__(self, event: str, /, **fields: Any) -> None: ...


def ignore(event: str, /, **fields: Any) -> None:
    """An :class:`OnEvent` that does nothing."""


class LogFile(Protocol):
    """The file that receives the lines."""

    def begin(self) -> bytes:
        """Return what must come before the first line."""

    def add(self, data: bytes, *, last: bool) -> bytes:
        """Append ``data``, at once or, unless it is the ``last``, a little later; return what could not be written."""


class AppendedFile:
    """A local file: one write per event, so that a crash of the process loses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = time.monotonic()

    def begin(self) -> bytes:
        """A newline if the machine crashed in the middle of a line."""
        with suppress(OSError), open_regular(self._path) as file:
            file.seek(-1, os.SEEK_END)
            return b"" if file.read(1) == b"\n" else b"\n"
        return b""

    def add(self, data: bytes, *, last: bool) -> bytes:
        # Opened anew each time: a network folder that went away and came back leaves a dead descriptor behind.
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o644)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return data  # a pipe or a device is in its place: write nothing and continue
                data = data[os.write(descriptor, data) :]
                if last or time.monotonic() - self._synced > SYNC_EVERY_S:
                    os.fsync(descriptor)
                    self._synced = time.monotonic()
            finally:
                os.close(descriptor)
        return data


class RewrittenFile:
    """An object in a store that cannot append: it is rewritten every ``PUT_EVERY_S`` seconds and at the end."""

    def __init__(self, read: Callable[[], bytes | None], write: Callable[[bytes], None]) -> None:
        self._read, self._write = read, write
        self._whole = b""
        self._written = float("-inf")

    def begin(self) -> bytes:
        """Read the lines of earlier runs, so that they are kept."""
        self._whole = self._read() or b""
        return b""

    def add(self, data: bytes, *, last: bool) -> bytes:
        self._whole += data
        if last or time.monotonic() - self._written > PUT_EVERY_S:
            with suppress(OutputError):  # the next write holds all lines again
                self._write(self._whole)
            self._written = time.monotonic()
        return b""


class EventLog:
    """Write events to a file as they come; use it as a context manager.

    A log never stops a run: a line that cannot be written now is written with the next event.
    """

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._pending = b""

    def __enter__(self) -> Self:
        self._pending = self._file.begin()
        return self

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Write one event with its fields; fields that are None are left out."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": stamp, "event": event, **given})
        self._pending = self._file.add(self._pending + line.encode() + b"\n", last=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self("stopped", reason=str(error) if isinstance(error, Exception) else type(error).__name__)
        self._pending = self._file.add(self._pending, last=True)


@dataclass(frozen=True)
class LoggedEvent:
    """One line of a log that was read back; a field that it does not have is None."""

    time: str
    event: str
    line: dict[str, Any]
    """All its fields as written."""
    key: str | None = None
    host: str | None = None
    reason: str | None = None
    seconds: float | None = None
    expected: int | None = None
    there: int | None = None


def parse_events(data: bytes) -> list[LoggedEvent]:
    """Every complete event of a log; other lines (cut off, or foreign) are skipped."""
    events = []
    for line in data.split(b"\n"):
        with suppress(ValueError):
            value = parse_json(line)
            event: LoggedEvent = from_json(
                LoggedEvent, {**value, "line": value} if isinstance(value, dict) else value
            )
            counted = event.event != "started" or None not in (event.expected, event.there)
            placed = event.event not in ("worker_joined", "worker_lost") or event.host is not None
            if counted and placed:
                events.append(event)
    return events
