"""``status --watch``: follow a run through its event log, from any machine that can read it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.live import Live
from rich.text import Text

from jobs.console import console, duration
from pipeline.base.english import counted
from pipeline.base.errors import UsageError
from pipeline.base.event_log import LoggedEvent
from pipeline.runs.folder import RunFolder

LAST = 8
"""Events shown on a terminal."""


@dataclass
class WatchedRun:
    """State of a run, computed from the events since the last ``started``."""

    expected: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    """Number of live workers by host."""
    last: list[str] = field(default_factory=list)
    ended: bool = False

    def take(self, event: LoggedEvent) -> None:
        name = event.event
        if name == "started":
            self.counts.clear()
            self.workers.clear()
            self.expected, self.counts["done"] = event.expected or 0, event.there or 0
        else:
            self.counts[name] += 1
        if name in ("worker_joined", "worker_lost"):
            self.workers[event.host or ""] += 1 if name == "worker_joined" else -1
        self.ended = name in ("finished", "stopped")
        self.last = [*self.last, describe(event)][-LAST:]

    def headline(self) -> str:
        parts = [f"{self.counts['done']} done, {self.counts['failed']} failed of {self.expected}"]
        if self.counts["retried"]:
            parts.append(f"{self.counts['retried']} retried")
        if not self.ended:
            parts.append(
                f"{counted(sum(self.workers.values()), 'worker')} on {counted(len(+self.workers), 'host')}"
            )
        return "; ".join(parts)


def describe(event: LoggedEvent) -> str:
    """One event as a line."""
    took = "" if event.seconds is None else f"{event.seconds:.2f} s"
    words = [event.time, event.event, event.key, event.host, took, event.reason]
    said = ("time", "event", "key", "host", "seconds", "reason", "node")
    words += [f"{name}={value}" for name, value in event.line.items() if name not in said]
    return " ".join(word for word in words if word)


def watch_run(folder: RunFolder, every_s: float, *, as_json: bool) -> None:
    """Show the run in ``folder`` until it ends: live on a terminal, else one line (``as_json``: raw) per event."""
    if folder.read_events() is None:
        raise UsageError(f"no run has started in {folder}: give a folder that a run writes to")
    run, began = WatchedRun(), time.monotonic()
    if console.is_terminal and not as_json:
        with Live(console=console, auto_refresh=False) as live:
            for events in _new_events(folder, every_s):
                for event in events:
                    run.take(event)
                body = [f"{run.headline()}; watched for {duration(time.monotonic() - began)}", *run.last]
                live.update(Text("\n".join(body)), refresh=True)
                if run.ended:
                    return
    for events in _new_events(folder, every_s):
        for event in events:
            run.take(event)
            console.print(json.dumps(event.line) if as_json else describe(event))
        if run.ended:
            if not as_json:
                console.print(run.headline())
            return


def _new_events(folder: RunFolder, every_s: float) -> Iterator[list[LoggedEvent]]:
    """Yield all events so far, then new ones every ``every_s`` seconds, without end."""
    seen = 0
    while True:
        events = folder.read_events() or []
        yield events[seen:]
        seen = max(seen, len(events))
        time.sleep(every_s)
