"""The audit of a suite in a straight line: tokens, plan, survey, tasks, driver, failures, summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.corpus import EvaluationTokens
from pipeline.driver import Outcome, Resources, cluster, drive
from pipeline.shards import RunFolder, RunPlan
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask
from pipeline.suites import Suite
from pipeline.survey import Survey, survey
from pipeline.tasks import copy_probe
from pipeline.versions import versions


@dataclass(frozen=True)
class AuditRequest:
    """What to measure, and where the shards go."""

    suite: Suite
    probe: ProbeSpec
    tokens: EvaluationTokens
    corpus: str
    """The evaluation corpus as the user named it."""
    out: RunFolder
    resources: Resources
    replace_stale: bool = False


@dataclass(frozen=True)
class RunSummary:
    """How an audit ended."""

    measured: tuple[str, ...]
    """Keys measured by this call (duplicates repeated from them included)."""
    already_done: int
    """Shards that were there."""
    failures: dict[str, str]
    """Reason by key of every expected shard that is not there."""
    wall_s: float

    @property
    def exit_code(self) -> int:
        return 1 if self.failures else 0


@dataclass(frozen=True)
class Progress:
    """Where an audit stands, after each checkpoint."""

    done: int
    """Shards there now, those of earlier runs included."""
    failed: int
    total: int
    eta_s: float | None
    last: Outcome | None
    """What ended just now; None at the start."""


def audit(
    request: AuditRequest,
    on_survey: Callable[[Survey], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunSummary:
    """Measures every checkpoint of the suite that has no valid shard yet.

    A rerun resumes. Raises StaleShardsError, FolderLockedError or OutputError; a checkpoint that cannot be
    measured is a failure in the summary and does not stop the others.
    """
    start = time.monotonic()
    with request.out.lock():
        plan = _record_plan(request)
        found = survey(request.out, plan)
        if request.replace_stale:
            for key in found.stale:
                request.out.remove_shard(key)
            found = survey(request.out, plan)
        found.refuse_stale(request.out)
        request.out.prepare()
        request.out.write_tokens(request.tokens.array)
        request.out.write_plan(plan)
        on_survey(found)
        ledger = _Ledger(request, plan, found, on_progress)
        first, copies = ledger.split()
        if first:
            with cluster(request.resources) as layout:
                on_progress(ledger.progress(None))
                drive([replace(task, device=layout.device) for task in first], layout, ledger.record)
        for task in copies:  # their originals were done before this call
            ledger.copy(task)
        wall_s = time.monotonic() - start
        request.out.write_plan(replace(plan, wall_s=plan.wall_s + wall_s))
    return RunSummary(
        measured=tuple(ledger.measured),
        already_done=len(found.done),
        failures=ledger.failures,
        wall_s=wall_s,
    )


def _record_plan(request: AuditRequest) -> RunPlan:
    """The plan of this request, and of earlier requests of the same measurement in the same folder.

    A folder's set of expected checkpoints only grows: a first look with ``--limit 5`` and the whole run after it
    are one run, in either order.
    """
    plan = RunPlan(
        suite=request.suite.name,
        checkpoints=request.suite.checkpoints,
        config=request.probe.config(),
        fingerprint=request.probe.fingerprint(),
        corpus=request.corpus,
        versions=versions(),
        recipe=dict(request.suite.recipe),
        skipped=request.suite.skipped,
    )
    if not request.out.has_plan():
        return plan
    before = request.out.read_plan()
    if before.fingerprint != plan.fingerprint or before.suite != plan.suite:
        return plan
    asked = {checkpoint.key for checkpoint in plan.checkpoints}
    kept = [checkpoint for checkpoint in before.checkpoints if checkpoint.key not in asked]
    checkpoints = tuple(sorted([*plan.checkpoints, *kept], key=_order))
    return replace(plan, checkpoints=checkpoints, wall_s=before.wall_s)


def _order(checkpoint: Checkpoint) -> tuple[str, int]:
    return checkpoint.stage, checkpoint.step


class _Ledger:
    """Turns missing keys into tasks and outcomes into records."""

    def __init__(
        self, request: AuditRequest, plan: RunPlan, found: Survey, on_progress: Callable[[Progress], None]
    ) -> None:
        self.measured: list[str] = []
        self.failures: dict[str, str] = {}
        self._out = request.out
        self._on_progress = on_progress
        self._total = len(plan.checkpoints)
        self._done = set(found.done)
        self._started = time.monotonic()
        missing = set(found.to_measure)
        copies: dict[str, list[str]] = {}
        for checkpoint in plan.checkpoints:
            if checkpoint.duplicate_of is not None:
                copies.setdefault(checkpoint.duplicate_of, []).append(checkpoint.key)
        self._tasks = {
            checkpoint.key: ProbeTask(
                suite=plan.suite,
                checkpoint=checkpoint,
                probe=request.probe,
                out=str(request.out.path.absolute()),
                duplicates=tuple(copies.get(checkpoint.key, ())),
            )
            for checkpoint in plan.checkpoints
            if checkpoint.key in missing
        }

    def split(self) -> tuple[list[ProbeTask], list[ProbeTask]]:
        """Tasks to measure, and duplicates whose original has a shard already."""
        tasks = self._tasks.values()
        first = [task for task in tasks if task.checkpoint.duplicate_of is None]
        return first, [task for task in tasks if task.checkpoint.duplicate_of in self._done]

    def record(self, outcome: Outcome) -> None:
        """Books an outcome and settles the duplicates of its checkpoint."""
        task = self._tasks[outcome.key]
        copies = [self._tasks[key] for key in task.duplicates if key in self._tasks]
        if outcome.failure is None:
            self._finish(outcome)
            for copy in copies:
                self.copy(copy)
            return
        self._fail(outcome)
        for copy in copies:
            self._fail(Outcome(copy.key, f"same content as {outcome.key}, which failed: {outcome.failure}"))

    def copy(self, task: ProbeTask) -> None:
        """Writes a duplicate's shard from its original's."""
        copy_probe(task)
        self._finish(Outcome(task.key))

    def progress(self, last: Outcome | None) -> Progress:
        ended = len(self.measured) + len(self.failures)
        left = self._total - len(self._done) - len(self.failures)
        eta_s = (time.monotonic() - self._started) / ended * left if ended else None
        return Progress(len(self._done), len(self.failures), self._total, eta_s, last)

    def _finish(self, outcome: Outcome) -> None:
        self._done.add(outcome.key)
        self.measured.append(outcome.key)
        self._on_progress(self.progress(outcome))

    def _fail(self, outcome: Outcome) -> None:
        self.failures[outcome.key] = outcome.failure or ""
        self._out.write_failure(outcome.key, outcome.failure or "", outcome.deaths)
        self._on_progress(self.progress(outcome))
