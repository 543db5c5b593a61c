"""Progress of a run: finished and failed tasks, time left, summary."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.base.event_log import EventLog
from pipeline.base.retry import retry_while_away
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.plans import share

if TYPE_CHECKING:
    from pipeline.driver import Layout, TaskOutcome


@dataclass(frozen=True)
class RunSummary:
    """Summary of a finished run."""

    measured: tuple[str, ...]
    """Keys measured by this call, duplicates included."""
    already_done: int
    """Shards that existed already."""
    failures: dict[str, str]
    """Key -> reason for every expected shard that is missing."""
    wall_s: float
    busy_s: float = 0.0
    """Seconds of computation, summed over workers."""
    idle_s: float = 0.0
    """Idle seconds between a worker's first and last checkpoint, summed over workers."""

    @property
    def idle_share(self) -> float | None:
        """Idle share of busy and idle seconds; None if nothing was computed."""
        return share(self.idle_s, self.busy_s)

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


@dataclass(frozen=True)
class Progress:
    """Progress of a run, reported after each task and, if tasks are long, in between."""

    done: int
    """Existing shards, those of earlier runs included."""
    failed: int
    total: int
    eta_s: float | None
    last: TaskOutcome | None
    """Outcome that has just arrived; None at the start and between outcomes."""
    under_way: Mapping[str, float] = field(default_factory=dict)
    """Finished share of each running task that reports it."""


class ProgressTracker:
    """Record outcomes: failures, events, progress and the summary."""

    def __init__(
        self, out: RunFolder, found: FolderStatus, on_progress: Callable[[Progress], None], events: EventLog
    ) -> None:
        """``found``: status of the shards that this call requests. Writes the start and each outcome to ``events``."""
        self.found, self.events = found, events
        self.measured: list[str] = []
        self.failures: dict[str, str] = {}
        self.done = set(found.done)
        self._out, self._on_progress = out, on_progress
        self._total = len(found.done) + len(found.to_measure)
        self._started = time.monotonic()
        self._idle_s = self._busy_s = 0.0
        self._under_way: Mapping[str, float] = {}
        self._resumed: Mapping[str, float] = {}
        events(
            "started",
            command=out.kind.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            expected=self._total,
            there=len(found.done),
            to_do=len(found.to_measure),
        )

    def arranged(self, tasks: list[Any], plan: Any, whole: FolderStatus) -> list[Any]:
        """Those of ``tasks`` (frozen dataclasses with a ``key`` and a ``device``) that workers run; ``whole``: status
        of all shards of ``plan``.
        """
        del plan, whole
        return tasks

    def begin(self) -> None:
        """Do what needs no worker, before the first task."""

    def placed(self, tasks: list[Any], layout: Layout) -> list[Any]:
        """``tasks`` in the form that workers of ``layout`` get."""
        return [replace(task, device=layout.device) for task in tasks]

    def look(self) -> None:
        """Called at least every second while tasks run."""

    def check_complete(self, asked: AbstractSet[str]) -> None:
        """Raise RuntimeError if a task was neither done nor reported: a defect of the program, not of the request."""
        lost = asked - self.done - self.failures.keys()
        if lost:
            raise AssertionError(f"neither done nor failed: {', '.join(sorted(lost))}")

    def resume(self, shares: Mapping[str, float]) -> None:
        """Record the share of each task that earlier calls finished; it does not count for the time left."""
        self._under_way = self._resumed = dict(shares)

    def advance(self, shares: Mapping[str, float]) -> None:
        """Record the finished share of each running task."""
        self._under_way = dict(shares)
        self._on_progress(self.progress(None))

    def record(self, outcome: TaskOutcome) -> None:
        self._idle_s += outcome.idle_s
        self._busy_s += outcome.busy_s
        if outcome.failure is None:
            self.done.add(outcome.key)
            self.measured.append(outcome.key)
            took = {"seconds": outcome.seconds, "busy_s": outcome.busy_s, "idle_s": outcome.idle_s}
            self.events("done", key=outcome.key, host=outcome.host or None, **took)
        else:
            key, reason, deaths = outcome.key, outcome.failure, outcome.deaths
            self.failures[key] = reason
            retry_while_away(lambda: self._out.failures.write(key, reason, deaths, outcome.trace))
            self.events("failed", key=key, reason=reason, host=outcome.host or None, deaths=deaths)
        self._on_progress(self.progress(outcome))

    def progress(self, last: TaskOutcome | None) -> Progress:
        """The current progress; ``last``: the outcome that has just arrived."""
        ended = {*self.measured, *self.failures}
        under_way = {key: share for key, share in self._under_way.items() if key not in ended}
        worked = sum(1 - self._resumed.get(key, 0.0) for key in ended)
        worked += sum(max(0.0, share - self._resumed.get(key, 0.0)) for key, share in under_way.items())
        left = self._total - len(self.done) - len(self.failures) - sum(under_way.values())
        eta_s = (time.monotonic() - self._started) / worked * left if worked else None
        return Progress(len(self.done), len(self.failures), self._total, eta_s, last, under_way)

    def summary(self, wall_s: float) -> RunSummary:
        """End the run: write its last event and return its summary."""
        summary = RunSummary(
            tuple(self.measured), len(self.found.done), self.failures, wall_s, self._busy_s, self._idle_s
        )
        ended = {"done": len(self.measured), "failed": len(self.failures)}
        self.events("finished", **ended, seconds=wall_s, idle_share=summary.idle_share)
        return summary
