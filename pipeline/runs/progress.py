"""The books of a driver's run: what is done, what failed, how far it is."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
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
    """How a run of the driver ended."""

    measured: tuple[str, ...]
    """Keys measured by this call (duplicates repeated from them included)."""
    already_done: int
    """Shards that were there."""
    failures: dict[str, str]
    """Reason by key of every expected shard that is not there."""
    wall_s: float
    busy_s: float = 0.0
    """Seconds that workers computed, added up over them."""
    idle_s: float = 0.0
    """Seconds between their first and last checkpoint in which they computed nothing, added up as well."""

    @property
    def idle_share(self) -> float | None:
        """Idle seconds as a share of both; None where nothing was computed."""
        return share(self.idle_s, self.busy_s)

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


@dataclass(frozen=True)
class Progress:
    """Where a run of the driver stands, after each task and, where tasks are long, in between."""

    done: int
    """Shards there now, those of earlier runs included."""
    failed: int
    total: int
    eta_s: float | None
    last: TaskOutcome | None
    """What ended just now; None at the start, and where nothing did."""
    under_way: Mapping[str, float] = field(default_factory=dict)
    """Share of each unfinished task that is done, of those that say so."""


class ProgressTracker:
    """Turns outcomes into records."""

    def __init__(
        self,
        out: RunFolder,
        found: FolderStatus,
        total: int,
        on_progress: Callable[[Progress], None],
        events: EventLog,
        *,
        tasks: Sequence[Any] = (),
        label: str = "",
    ) -> None:
        """``total``: shards of a complete run. Writes to ``events`` that it starts, and how each task ends.

        tasks: frozen dataclasses with a ``key`` and a ``device``. label: what the metrics are tagged with.
        """
        self.found, self.label, self.events = found, label, events
        self.tasks = list(tasks)
        """To be driven."""
        self.measured: list[str] = []
        self.failures: dict[str, str] = {}
        self.done = set(found.done)
        self._already_done = len(found.done)
        self._out, self._total, self._on_progress = out, total, on_progress
        self._started = time.monotonic()
        self._idle_s = self._busy_s = 0.0
        self._under_way: Mapping[str, float] = {}
        self._resumed: Mapping[str, float] = {}
        events(
            "started",
            command=out.kind.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            expected=total,
            there=len(found.done),
            to_do=len(found.to_measure),
        )

    def begin(self) -> None:
        """Does what needs no worker, before the first task."""

    def placed(self, layout: Layout) -> list[Any]:
        """The tasks as workers of ``layout`` get them."""
        return [replace(task, device=layout.device) for task in self.tasks]

    def look(self) -> None:
        """Called at least every second while tasks are driven."""

    def check_complete(self, asked: AbstractSet[str]) -> None:
        """A defect of ours, never of the request: something that was asked for was neither done nor reported."""
        lost = asked - self.done - self.failures.keys()
        if lost:
            raise AssertionError(f"neither done nor failed: {', '.join(sorted(lost))}")

    def resume(self, shares: Mapping[str, float]) -> None:
        """Books the share of each task that earlier calls have done: it took none of this call's time."""
        self._under_way = self._resumed = dict(shares)

    def advance(self, shares: Mapping[str, float]) -> None:
        """Books the share of each unfinished task that is done by now."""
        self._under_way = dict(shares)
        self._on_progress(self.progress(None))

    def record(self, outcome: TaskOutcome) -> None:
        """Books an outcome."""
        self._idle_s += outcome.idle_s
        self._busy_s += outcome.busy_s
        if outcome.failure is None:
            self.done.add(outcome.key)
            self.measured.append(outcome.key)
            self.events(
                "done",
                key=outcome.key,
                seconds=outcome.seconds,
                host=outcome.host or None,
                busy_s=outcome.busy_s,
                idle_s=outcome.idle_s,
            )
        else:
            self.failures[outcome.key] = outcome.failure
            reason = outcome.failure
            retry_while_away(
                lambda: self._out.write_failure(outcome.key, reason, outcome.deaths, outcome.trace)
            )
            self.events(
                "failed",
                key=outcome.key,
                reason=outcome.failure,
                host=outcome.host or None,
                deaths=outcome.deaths,
            )
        self._on_progress(self.progress(outcome))

    def progress(self, last: TaskOutcome | None) -> Progress:
        """Where the run stands; ``last``: what ended just now."""
        ended = {*self.measured, *self.failures}
        under_way = {key: share for key, share in self._under_way.items() if key not in ended}
        worked = sum(1 - self._resumed.get(key, 0.0) for key in ended)
        worked += sum(max(0.0, share - self._resumed.get(key, 0.0)) for key, share in under_way.items())
        left = self._total - len(self.done) - len(self.failures) - sum(under_way.values())
        eta_s = (time.monotonic() - self._started) / worked * left if worked else None
        return Progress(len(self.done), len(self.failures), self._total, eta_s, last, under_way)

    def summary(self, wall_s: float) -> RunSummary:
        """How the run ended, which it has: the last event of it is written."""
        summary = RunSummary(
            tuple(self.measured), self._already_done, self.failures, wall_s, self._busy_s, self._idle_s
        )
        self.events(
            "finished",
            done=len(self.measured),
            failed=len(self.failures),
            seconds=wall_s,
            idle_share=summary.idle_share,
        )
        return summary
