"""``audit``: every checkpoint of a suite, quantized, measured and reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.measurements import of_fp32
from pipeline.runs.calibration_tokens import write_calibration
from pipeline.runs.checkpoint_plan import checkpoint_plan
from pipeline.runs.folder import RunFolder
from pipeline.runs.kind_of_work import KindOfWork, Reduced, register
from pipeline.runs.plans import RunPlan
from pipeline.runs.progress import Progress, ProgressTracker
from pipeline.runs.result_files import REPORT, TABLES
from pipeline.runs.shard import Lacks
from pipeline.runs.shard_schema import AUDIT
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask
from pipeline.suites import Fetcher

if TYPE_CHECKING:
    from pipeline.base.event_log import EventLog
    from pipeline.driver import Layout, TaskOutcome
    from pipeline.runs.folder_status import FolderStatus
    from pipeline.runs.requests import AuditRequest
    from pipeline.runs.tasks import TaskDone
    from pipeline.runs.warm_state import WarmState
    from pipeline.suites import Suite

AHEAD = 8
"""Checkpoints that a worker knows in advance; the disk budget limits how many of them are fetched."""


@register
class AuditWork(KindOfWork):
    """Every checkpoint of a suite under every variant."""

    name = "audit"
    kind = AUDIT

    def plan(self, request: AuditRequest) -> RunPlan:
        return checkpoint_plan(
            request,
            request.suite,
            request.probe,
            corpus=request.corpus,
            calibration="" if request.calibration is None else request.calibration.source,
        )

    def write_inputs(self, request: AuditRequest) -> None:
        request.out.tokens.write(request.tokens.array)
        if request.calibration is not None:
            write_calibration(request.out, request.calibration)

    def asked(self, request: AuditRequest, plan: RunPlan) -> set[str]:
        del plan
        return {checkpoint.key for checkpoint in request.suite.checkpoints}

    def tasks(self, request: AuditRequest, plan: RunPlan, found: FolderStatus) -> list[ProbeTask]:
        wanted = set(found.to_measure)
        duplicates: dict[str, list[str]] = {}
        for checkpoint in plan.checkpoints:
            duplicates.setdefault(checkpoint.duplicate_of or "", []).append(checkpoint.key)
        tasks = []
        for checkpoint in plan.checkpoints:
            if checkpoint.key in wanted:
                probe = request.probe.at(plan.steps_of(checkpoint.key))
                same = tuple(duplicates.get(checkpoint.key, ()))
                task = _task(request, probe, plan.suite, checkpoint, same)
                if lacks := found.incomplete.get(checkpoint.key):
                    task = replace(task, adds=_added(probe, lacks))
                tasks.append(_with_other(task, request.suite))
        return tasks

    def tracker(
        self,
        request: AuditRequest,
        plan: RunPlan,
        found: FolderStatus,
        on_progress: Callable[[Progress], None],
        events: EventLog,
    ) -> AuditProgress:
        asked = found.only(self.asked(request, plan))
        tasks = self.tasks(request, plan, asked)
        return AuditProgress(request, plan, found, on_progress, events, tasks=tasks)

    def run(self, task: ProbeTask, warm: WarmState) -> TaskDone:
        from pipeline.runs.tasks import run_probe

        prober = warm.prober(task.measuring, RunFolder(task.out), task.device)
        fetcher = warm.kept("fetcher", lambda: Fetcher(task.cache_gb))
        return run_probe(task, prober, fetcher, warm.turn)

    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        from pipeline.analysis.terminal import trajectory_text
        from pipeline.analysis.trajectory.reduction import reduce_run, write_reduction

        reduction = reduce_run(folder, allow_missing=allow_missing, seed=seed)
        write_reduction(folder, reduction)
        places = (f"tables: {folder.place(TABLES)}", f"numbers: {folder.place(REPORT)}")
        return Reduced(reduction.report.summary.verdict, places, trajectory_text(reduction.trajectory))

    def decide(self, folder: RunFolder, *, tolerance_nats: float | None, level: float | None) -> list[str]:
        from pipeline.analysis.trajectory.reduction import redecide

        return redecide(folder, tolerance_nats=tolerance_nats, level=level)

    def page(self, folder: RunFolder) -> list[str]:
        from pipeline.report.run_pages import report_audit

        return report_audit(folder)


def _ordered(tasks: Sequence[ProbeTask], layout: Layout) -> list[ProbeTask]:
    """``tasks`` for the layout's device, grouped by what they measure, each with the checkpoints to prefetch.

    With W workers a task prefetches every W-th of the following ones: together the workers of a node fetch them
    all, and on several nodes each fetches mostly what it will measure.
    """
    tasks = sorted(tasks, key=lambda task: (task.adds is not None, str(task.measuring.config())))
    return [
        replace(
            task,
            device=layout.device,
            ahead=tuple(
                tasks[j].checkpoint for j in range(i + layout.workers, len(tasks), layout.workers)[:AHEAD]
            ),
        )
        for i, task in enumerate(tasks)
    ]


class AuditProgress(ProgressTracker):
    """Records outcomes and copies shards to their duplicates."""

    def __init__(
        self,
        request: AuditRequest,
        plan: RunPlan,
        found: FolderStatus,
        on_progress: Callable[[Progress], None],
        events: EventLog,
        *,
        tasks: Sequence[ProbeTask],
    ) -> None:
        """``found``: status of the whole plan, because a duplicate may repeat a checkpoint outside this call."""
        asked = {checkpoint.key for checkpoint in request.suite.checkpoints}
        super().__init__(
            request.out, found.only(asked), len(asked), on_progress, events, label=request.suite.name
        )
        self._copies: list[tuple[ProbeTask, str]] = []
        """Duplicates of checkpoints that have a shard already, with the key of that shard."""
        self._followers: dict[str, list[ProbeTask]] = {}
        done, there, leader = set(found.done), dict[str, str](), dict[str, str]()
        for checkpoint in plan.checkpoints:
            if checkpoint.key in done:
                there.setdefault(checkpoint.duplicate_of or checkpoint.key, checkpoint.key)
        for task in tasks:
            original = task.checkpoint.duplicate_of or task.key
            if original in there:
                self._copies.append((task, there[original]))
            elif original in leader:
                self._followers[leader[original]].append(task)
            else:
                leader[original] = task.key
                self._followers[task.key] = []
                self.tasks.append(task)

    def begin(self) -> None:
        """Copy the shards of duplicates whose originals were done before this call."""
        for task, source in self._copies:
            self._copy(task, source)

    def placed(self, layout: Layout) -> list[ProbeTask]:
        """The tasks, each with the checkpoints to prefetch."""
        return _ordered(self.tasks, layout)

    def record(self, outcome: TaskOutcome) -> None:
        """Record an outcome and copy the shard to its duplicates."""
        super().record(outcome)
        for task in self._followers[outcome.key]:
            if outcome.failure is None:
                self._copy(task, outcome.key)
            else:
                from pipeline.driver import TaskOutcome

                reason = f"same content as {outcome.key}, which failed: {outcome.failure}"
                super().record(TaskOutcome(task.key, reason, outcome.trace))

    def _copy(self, task: ProbeTask, source: str) -> None:
        """Write a duplicate's shard from the shard ``source``."""
        from pipeline.driver import TaskOutcome
        from pipeline.runs.tasks import copy_probe  # imports torch, which takes seconds

        copy_probe(task, source)
        super().record(TaskOutcome(task.key))


def _added(probe: ProbeSpec, lacks: Lacks) -> ProbeSpec:
    """The part of ``probe`` that a shard ``lacks``; fp32 is always measured again."""
    controls = tuple(each for each in probe.mechanism if str(each) in lacks.controls)
    of_one = of_fp32(probe.measurements)
    probe = replace(
        probe,
        mechanism=controls,
        by_layer=probe.by_layer and bool(controls),
        measurements=tuple(
            each for each in probe.measurements if each not in of_one or each in lacks.measurements
        ),
        swapped=tuple(each for each in probe.swapped if str(each) in lacks.swapped),
    )
    if not of_one.issuperset(lacks.measurements):
        return probe
    wanted = {"fp32", *lacks.variants}
    return replace(probe, variants=tuple(each for each in probe.variants if str(each) in wanted))


def _with_other(task: ProbeTask, suite: Suite) -> ProbeTask:
    """``task`` with the checkpoint whose rounding errors its weights get, if they get any."""
    if not task.measuring.swapped:
        return task
    return replace(task, beside=next(each for each in suite.checkpoints if each.step in task.measuring.swap))


def _task(
    request: AuditRequest, probe: ProbeSpec, suite: str, checkpoint: Checkpoint, duplicates: tuple[str, ...]
) -> ProbeTask:
    return ProbeTask(
        suite=suite,
        checkpoint=checkpoint,
        probe=probe,
        out=request.out.location,
        duplicates=duplicates,
        cache_gb=request.cache_gb,
        stream=request.stream,
    )
