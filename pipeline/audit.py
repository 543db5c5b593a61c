"""The audit of a suite in a straight line: tokens, plan, survey, tasks, driver, failures, summary."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pipeline.corpus import EvaluationTokens
from pipeline.driver import Layout, Outcome, Resources, staffed
from pipeline.errors import StaleShardsError, UsageError
from pipeline.events import EventLog
from pipeline.ledger import Ledger, Progress, RunSummary
from pipeline.patience import patiently
from pipeline.shards import Lacks, RunFolder, RunPlan
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask
from pipeline.suites import Suite
from pipeline.survey import Survey, survey
from pipeline.versions import versions
from pipeline.worker import TaskWorker

AHEAD = 8
"""Checkpoints that a worker knows of in advance; the disk budget bounds how many of them are fetched."""


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
    cache_gb: float | None = None
    """Disk for downloaded weights on each node, in 10^9 bytes; None = half of what is free."""
    stream: bool = False
    """Measure layer by layer even where the whole model fits."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it is measured."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the suite or cannot be known of it."""


def audit(
    request: AuditRequest,
    on_survey: Callable[[Survey], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunSummary:
    """Measures every checkpoint of the request's suite that has no valid shard yet.

    A rerun resumes. Raises StaleShardsError, FolderLockedError or OutputError; a checkpoint that cannot be
    measured is a failure in the summary and does not stop the others.
    """
    start = time.monotonic()
    with request.out.lock(), request.out.event_log() as events, ExitStack() as stack:
        plan = _record_plan(request)
        crew = None
        distinct = {each.key for each in request.suite.checkpoints if each.duplicate_of is None}
        listed = request.out.shard_keys()
        checking = stack.enter_context(ThreadPoolExecutor(1)).submit(survey, request.out, plan, listed)
        if left := distinct - set(listed):
            # There is work, whatever the survey finds: Ray and the workers start while the shards are checked.
            crew = stack.enter_context(staffed(request.resources, len(left), TaskWorker, events))
        found = checking.result()
        if request.replace_stale:
            for key in found.stale:
                request.out.remove_shard(key)
            found = survey(request.out, plan)
        found.refuse_stale(request.out)
        request.out.prepare()
        request.out.write_tokens(request.tokens.array)
        request.out.write_plan(plan)
        ledger = _Ledger(request, plan, found, on_progress, events)
        on_survey(ledger.found)
        for task, source in ledger.copies:  # their originals were done before this call
            ledger.copy(task, source)
        if ledger.tasks:
            crew = crew or stack.enter_context(
                staffed(request.resources, len(ledger.tasks), TaskWorker, events)
            )
            on_progress(ledger.progress(None))
            crew.drive(_ordered(ledger.tasks, crew.layout), ledger.record, label=request.suite.name)
        ledger.check_complete()
        wall_s = time.monotonic() - start
        summary = ledger.summary(wall_s)
        ended = replace(
            plan,
            wall_s=plan.wall_s + wall_s,
            busy_s=plan.busy_s + summary.busy_s,
            idle_s=plan.idle_s + summary.idle_s,
        )
        patiently(lambda: request.out.write_plan(ended))
        return summary


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


class _Ledger(Ledger):
    """Turns the keys that were asked for and have no shard into tasks, and settles duplicates with their originals."""

    def __init__(
        self,
        request: AuditRequest,
        plan: RunPlan,
        found: Survey,
        on_progress: Callable[[Progress], None],
        events: EventLog,
    ) -> None:
        self._asked = {checkpoint.key for checkpoint in request.suite.checkpoints}
        self.found = found.only(self._asked)
        super().__init__(request.out, self.found, len(self._asked), on_progress, events)
        self.tasks: list[ProbeTask] = []
        """To measure."""
        self.copies: list[tuple[ProbeTask, str]] = []
        """Duplicates of something that has a shard already, with its key."""
        self._followers: dict[str, list[ProbeTask]] = {}
        there: dict[str, str] = {}
        done, to_measure = set(found.done), set(self.found.to_measure)
        duplicates: dict[str, list[str]] = {}
        for checkpoint in plan.checkpoints:
            duplicates.setdefault(checkpoint.duplicate_of or "", []).append(checkpoint.key)
            if checkpoint.key in done:
                there.setdefault(checkpoint.duplicate_of or checkpoint.key, checkpoint.key)
        leader: dict[str, str] = {}
        for checkpoint in plan.checkpoints:
            if checkpoint.key not in to_measure:
                continue
            task = _task(request, plan.suite, checkpoint, tuple(duplicates.get(checkpoint.key, ())))
            if lacks := self.found.incomplete.get(checkpoint.key):
                task = replace(task, adds=_added(request.probe, lacks))
            original = checkpoint.duplicate_of or checkpoint.key
            if original in there:
                self.copies.append((task, there[original]))
            elif original in leader:
                self._followers[leader[original]].append(task)
            else:
                leader[original] = checkpoint.key
                self._followers[checkpoint.key] = []
                self.tasks.append(task)

    def record(self, outcome: Outcome) -> None:
        """Books an outcome and settles the duplicates of its checkpoint."""
        super().record(outcome)
        for task in self._followers[outcome.key]:
            if outcome.failure is None:
                self.copy(task, outcome.key)
            else:
                reason = f"same content as {outcome.key}, which failed: {outcome.failure}"
                super().record(Outcome(task.key, reason, outcome.trace))

    def copy(self, task: ProbeTask, source: str) -> None:
        """Writes a duplicate's shard from the shard ``source``."""
        from pipeline.tasks import copy_probe  # imports torch, which takes seconds

        copy_probe(task, source)
        super().record(Outcome(task.key))

    def check_complete(self) -> None:
        """A defect of ours, never of the request: something asked for was neither measured nor reported."""
        lost = self._asked - self.done - self.failures.keys()
        if lost:
            raise AssertionError(f"neither measured nor failed: {', '.join(sorted(lost))}")


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
