"""``audit``: every checkpoint of a suite, quantized, measured and reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.driver import Layout, Outcome
from pipeline.errors import StaleShardsError, UsageError
from pipeline.ledger import Ledger, Progress
from pipeline.runs.kind_of_work import KindOfWork, Reduced, register
from pipeline.shards import AUDIT, REPORT, TABLES, Lacks, RunFolder, RunPlan
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask
from pipeline.suites import Fetcher
from pipeline.versions import versions

if TYPE_CHECKING:
    from pipeline.events import EventLog
    from pipeline.runs.requests import AuditRequest
    from pipeline.runs.warm_state import WarmState
    from pipeline.survey import Survey
    from pipeline.tasks import TaskDone

AHEAD = 8
"""Checkpoints that a worker knows of in advance; the disk budget bounds how many of them are fetched."""


@register
class AuditWork(KindOfWork):
    """Every checkpoint of a suite under every variant."""

    name = "audit"
    kind = AUDIT

    def plan(self, request: AuditRequest) -> RunPlan:
        return _record_plan(request)

    def write_inputs(self, request: AuditRequest) -> None:
        request.out.write_tokens(request.tokens.array)

    def asked(self, request: AuditRequest, plan: RunPlan) -> set[str]:
        del plan
        return {checkpoint.key for checkpoint in request.suite.checkpoints}

    def tasks(self, request: AuditRequest, plan: RunPlan, found: Survey) -> list[ProbeTask]:
        wanted = set(found.to_measure)
        duplicates: dict[str, list[str]] = {}
        for checkpoint in plan.checkpoints:
            duplicates.setdefault(checkpoint.duplicate_of or "", []).append(checkpoint.key)
        tasks = []
        for checkpoint in plan.checkpoints:
            if checkpoint.key in wanted:
                task = _task(request, plan.suite, checkpoint, tuple(duplicates.get(checkpoint.key, ())))
                lacks = found.incomplete.get(checkpoint.key)
                tasks.append(replace(task, adds=_added(request.probe, lacks)) if lacks else task)
        return tasks

    def ledger(
        self,
        request: AuditRequest,
        plan: RunPlan,
        found: Survey,
        on_progress: Callable[[Progress], None],
        events: EventLog,
    ) -> AuditLedger:
        asked = found.only(self.asked(request, plan))
        tasks = self.tasks(request, plan, asked)
        return AuditLedger(request, plan, found, on_progress, events, tasks=tasks)

    def run(self, task: ProbeTask, warm: WarmState) -> TaskDone:
        from pipeline.tasks import run_probe

        prober = warm.prober(task.measuring, RunFolder(task.out), task.device)
        fetcher = warm.kept("fetcher", lambda: Fetcher(task.cache_gb))
        return run_probe(task, prober, fetcher, warm.turn)

    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        from pipeline.analysis.reduce import reduce_run, write_reduction
        from pipeline.analysis.terminal import trajectory_text

        reduction = reduce_run(folder, allow_missing=allow_missing, seed=seed)
        write_reduction(folder, reduction)
        places = (f"tables: {folder.place(TABLES)}", f"numbers: {folder.place(REPORT)}")
        return Reduced(reduction.report["verdict"], places, trajectory_text(reduction.trajectory))

    def page(self, folder: RunFolder) -> list[str]:
        from pipeline.report.folders import report_audit

        return report_audit(folder)


def _ordered(tasks: Sequence[ProbeTask], layout: Layout) -> list[ProbeTask]:
    """``tasks`` for the layout's device, those that measure the same together, each with what its worker fetches
    meanwhile.

    Every W-th of the following ones, for W workers: together the workers of a node fetch them all, and on several
    nodes each fetches mostly what it will measure.
    """
    tasks = sorted(tasks, key=lambda task: "" if task.adds is None else str(task.adds.config()))
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


def _record_plan(request: AuditRequest) -> RunPlan:
    """The plan of this request, and of earlier requests of the same measurement in the same folder.

    A folder's set of expected checkpoints only grows: a first look with ``--limit 5`` and the whole run after it
    are one run, in either order. StaleShardsError where the folder holds another run altogether.
    """
    plan = RunPlan(
        suite=request.suite.name,
        location=request.suite.location,
        checkpoints=merge_checkpoints((), request.suite.checkpoints),
        config=request.probe.config(),
        fingerprint=request.probe.fingerprint(),
        corpus=request.corpus,
        versions=versions(),
        recipe=dict(request.suite.recipe),
        skipped=request.suite.skipped,
    )
    before = _plan_before(request.out)
    if before is None or not before.is_comparable(plan):
        return plan
    if before.location != plan.location and not _same_weights(before, plan):
        if not request.replace_stale:
            raise StaleShardsError(
                f"{request.out} holds the run of {before.location}, this is {plan.location}: write elsewhere with "
                "--out, or discard what is there with --replace-stale"
            )
        for checkpoint in before.checkpoints:
            request.out.remove_shard(checkpoint.key)
        return plan
    checkpoints = merge_checkpoints(before.checkpoints, request.suite.checkpoints)
    return replace(
        plan, checkpoints=checkpoints, wall_s=before.wall_s, busy_s=before.busy_s, idle_s=before.idle_s
    )


def _plan_before(out: RunFolder) -> RunPlan | None:
    if not out.has_plan():
        return None
    try:
        plan: RunPlan = out.read_plan()
    except UsageError:  # damaged: this call writes it anew, and the shards speak for themselves
        return None
    return plan


def _same_weights(before: RunPlan, plan: RunPlan) -> bool:
    """Whether some checkpoint is the same in both: then the suite's folder was moved, not exchanged."""
    ids = {checkpoint.key: checkpoint.content_id for checkpoint in before.checkpoints}
    return any(each.content_id and ids.get(each.key) == each.content_id for each in plan.checkpoints)


def merge_checkpoints(before: Sequence[Checkpoint], asked: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Both sets in order of stage and step, the asked ones prevailing, duplicates linked across them.

    Every duplicate points at the first checkpoint with its content that is in the result, which points at none.
    """
    merged = {checkpoint.key: checkpoint for checkpoint in (*before, *asked)}
    group = {key: key for key in merged}
    for checkpoint in (*before, *asked):
        original = checkpoint.duplicate_of
        if original in merged and checkpoint.content_id == merged[checkpoint.key].content_id:
            old, new = group[checkpoint.key], group[original]
            group = (
                {key: new if each == old else each for key, each in group.items()} if old != new else group
            )
    first: dict[str, str] = {}
    linked = []
    for checkpoint in sorted(merged.values(), key=_order):
        root = first.setdefault(group[checkpoint.key], checkpoint.key)
        linked.append(replace(checkpoint, duplicate_of=None if root == checkpoint.key else root))
    return tuple(linked)


def _order(checkpoint: Checkpoint) -> tuple[list[tuple[bool, int, str]], int]:
    """By stage, its numbers as numbers, then by step."""
    parts = re.findall(r"\d+|\D+", checkpoint.stage)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts], checkpoint.step


class AuditLedger(Ledger):
    """Settles duplicates with their originals."""

    def __init__(
        self,
        request: AuditRequest,
        plan: RunPlan,
        found: Survey,
        on_progress: Callable[[Progress], None],
        events: EventLog,
        *,
        tasks: Sequence[ProbeTask],
    ) -> None:
        """``found`` is of the whole plan: a duplicate may repeat a checkpoint that this call is not about."""
        asked = {checkpoint.key for checkpoint in request.suite.checkpoints}
        super().__init__(
            request.out, found.only(asked), len(asked), on_progress, events, label=request.suite.name
        )
        self._copies: list[tuple[ProbeTask, str]] = []
        """Duplicates of something that has a shard already, with its key."""
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
        """Settles duplicates whose originals were done before this call."""
        for task, source in self._copies:
            self._copy(task, source)

    def placed(self, layout: Layout) -> list[ProbeTask]:
        """Each task with what its worker fetches meanwhile."""
        return _ordered(self.tasks, layout)

    def record(self, outcome: Outcome) -> None:
        """Books an outcome and settles the duplicates of its checkpoint."""
        super().record(outcome)
        for task in self._followers[outcome.key]:
            if outcome.failure is None:
                self._copy(task, outcome.key)
            else:
                reason = f"same content as {outcome.key}, which failed: {outcome.failure}"
                super().record(Outcome(task.key, reason, outcome.trace))

    def _copy(self, task: ProbeTask, source: str) -> None:
        """Writes a duplicate's shard from the shard ``source``."""
        from pipeline.tasks import copy_probe  # imports torch, which takes seconds

        copy_probe(task, source)
        super().record(Outcome(task.key))


def _added(probe: ProbeSpec, lacks: Lacks) -> ProbeSpec:
    """What of ``probe`` a shard needs that ``lacks`` some of it; fp32 is always measured again."""
    if lacks.measurements:
        return probe
    wanted = {"fp32", *lacks.variants}
    return replace(probe, variants=tuple(each for each in probe.variants if str(each) in wanted))


def _task(
    request: AuditRequest, suite: str, checkpoint: Checkpoint, duplicates: tuple[str, ...]
) -> ProbeTask:
    return ProbeTask(
        suite=suite,
        checkpoint=checkpoint,
        probe=request.probe,
        out=request.out.location,
        duplicates=duplicates,
        cache_gb=request.cache_gb,
        stream=request.stream,
    )
