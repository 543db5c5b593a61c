"""What happened in a run, one JSON line per event, for people and for tools that watch.

Nothing reads it back to decide anything: the shards alone say what is done. Each line is one object with ``time``
(UTC, of the machine that drives), ``event`` and what belongs to it:

==============  ====================================================================================
started         command, host, pid, expected, there (shards of earlier runs), to_do
worker_joined   host, pid, node
worker_lost     host, pid, node, reason; ``stopped: true`` where the driver itself killed it
done            key, seconds, host, busy_s, idle_s
failed          key, reason, host, deaths
retried         key, reason, attempt
speculated      key, host: a worker that had nothing to do began a second copy
stopped         reason: the run ended early; the same command resumes
finished        done, failed, seconds, idle_share
==============  ====================================================================================
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

SYNC_EVERY_S = 1.0
"""Longest time for which a crash of the machine (not of the process) may lose lines."""


class OnEvent(Protocol):
    """Takes an event by name with its fields."""

    def __call__(self, event: str, /, **fields: Any) -> None: ...


def ignore(event: str, /, **fields: Any) -> None:
    """An :class:`OnEvent` that keeps nothing."""


class EventLog:
    """Appends events to a file, one write each; use it as a context manager.

    A log never stops a run: what cannot be written now is kept and written with the next event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = b""
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the machine went down in the middle of a line
                self._pending = b"\n"
        return self

    def __call__(self, event: str, /, **fields: Any) -> None:
        """Writes one event with its fields, those that are None left out."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        given = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": stamp, "event": event, **given})
        self._pending += line.encode() + b"\n"
        self._flush(sync=time.monotonic() - self._synced > SYNC_EVERY_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self("stopped", reason=str(error) if isinstance(error, Exception) else type(error).__name__)
        self._flush(sync=True)

    def _flush(self, *, sync: bool) -> None:
        # Opened anew each time: a network folder that went away and came back leaves a dead descriptor behind.
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, self._pending) if self._pending else 0
                self._pending = self._pending[written:]
                if sync:
                    os.fsync(descriptor)
                    self._synced = time.monotonic()
            finally:
                os.close(descriptor)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Every whole event in ``path``; none where there is no file."""
    events = []
    with suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with suppress(ValueError):
                events.append(json.loads(line))
    return events


def follow(path: Path, every_s: float) -> Iterator[list[dict[str, Any]]]:
    """The whole events in ``path``, then for ever, every ``every_s`` seconds, those that have come since."""
    offset, rest = 0, b""
    while True:
        with suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(offset)
            data = file.read()
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            events = []
            for line in lines:
                with suppress(ValueError):
                    events.append(json.loads(line))
            yield events
        time.sleep(every_s)
