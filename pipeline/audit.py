"""The audit of a suite in a straight line: tokens, plan, survey, tasks, driver, failures, summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.corpus import EvaluationTokens
from pipeline.driver import Resources, cluster, drive
from pipeline.ledger import Ledger, Progress, RunSummary
from pipeline.shards import RunFolder, RunPlan
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask
from pipeline.suites import Suite
from pipeline.survey import Survey, survey
from pipeline.tasks import copy_probe
from pipeline.versions import versions
from pipeline.worker import Outcome


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
    return ledger.summary(wall_s)


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


class _Ledger(Ledger):
    """Turns missing keys into tasks, and settles duplicates with their originals."""

    def __init__(
        self, request: AuditRequest, plan: RunPlan, found: Survey, on_progress: Callable[[Progress], None]
    ) -> None:
        super().__init__(request.out, found, len(plan.checkpoints), on_progress)
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
        return first, [task for task in tasks if task.checkpoint.duplicate_of in self.done]

    def record(self, outcome: Outcome) -> None:
        """Books an outcome and settles the duplicates of its checkpoint."""
        super().record(outcome)
        for key in self._tasks[outcome.key].duplicates:
            if key not in self._tasks:
                continue
            if outcome.failure is None:
                self.copy(self._tasks[key])
            else:
                reason = f"same content as {outcome.key}, which failed: {outcome.failure}"
                super().record(Outcome(key, reason))

    def copy(self, task: ProbeTask) -> None:
        """Writes a duplicate's shard from its original's."""
        copy_probe(task)
        super().record(Outcome(task.key))
