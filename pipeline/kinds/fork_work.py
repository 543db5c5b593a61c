"""``fork``: the schedule experiment, trained, probed, compared and reported."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import OutputError
from pipeline.base.versions import versions
from pipeline.runs.calibration_tokens import write_calibration
from pipeline.runs.folder import RunFolder
from pipeline.runs.kind_of_work import KindOfWork, Reduced, Unfinished, register
from pipeline.runs.plans import ForkPlan
from pipeline.runs.progress import ProgressTracker
from pipeline.runs.result_files import TABLES
from pipeline.runs.shard_schema import FORK
from pipeline.spec import parse_variants
from pipeline.train.fork_spec import ForkTask, probe_steps

if TYPE_CHECKING:
    from pipeline.analysis.forks.fork_reduce import ForkReduction
    from pipeline.runs.folder_status import FolderStatus
    from pipeline.runs.requests import ForkRequest
    from pipeline.runs.tasks import TaskDone
    from pipeline.runs.warm_state import WarmState

LOOK_EVERY_S = 10.0
"""Shortest time between two checks of the unfinished runs' progress, seconds."""


@register
class ForkWork(KindOfWork):
    """Train from one checkpoint under several schedules and seeds, with probes on the way."""

    name = "fork"
    kind = FORK
    long_tasks = True

    def plan(self, request: ForkRequest) -> ForkPlan:
        """The plan of this request, merged with earlier requests of the same experiment in the folder."""
        plan = ForkPlan(
            suite=request.suite,
            checkpoint=request.checkpoint,
            start_rule=request.start_rule,
            runs=request.runs(),
            config=request.spec.config(),
            fingerprint=request.spec.fingerprint(),
            corpus=request.corpus,
            train_corpus=request.train.corpus,
            calibration="" if request.calibration is None else request.calibration.source,
            versions=versions(),
            notes=request.notes,
            monitor=request.monitor,
        )
        if not request.out.has_plan():
            return plan
        before: ForkPlan = request.out.read_plan()
        if not before.is_comparable(plan) or before.suite != plan.suite:
            return plan
        asked = {run.key for run in plan.runs}
        kept = tuple(run for run in before.runs if run.key not in asked)
        arms = {run.arm.label for run in before.runs}
        added = any(run.arm.label in arms and run not in before.runs for run in plan.runs)
        seen = added and {run.key for run in before.runs} <= set(request.out.shards.list_keys())
        monitor = plan.monitor or before.monitor
        return replace(
            plan, runs=plan.runs + kept, wall_s=before.wall_s, looks=before.looks + seen, monitor=monitor
        )

    def write_inputs(self, request: ForkRequest) -> None:
        out = request.out
        out.tokens.write(request.tokens.array)
        if request.calibration is not None:
            write_calibration(out, request.calibration)
        if out.training_tokens.holds(request.spec.train_sha256, checked=request.train.kept):
            out.training_tokens.write_note(_note(request))
        else:
            out.training_tokens.write(request.train.tokens, _note(request))

    def tasks(self, request: ForkRequest, plan: ForkPlan, found: FolderStatus) -> list[ForkTask]:
        missing = set(found.to_measure)
        return [
            ForkTask(
                suite=plan.suite,
                checkpoint=plan.checkpoint,
                spec=request.spec,
                arm=run.arm,
                seed=run.seed,
                out=request.out.location,
                state_every=request.state_every,
                state_after_s=request.state_after_s,
                monitor=plan.monitor,
            )
            for run in plan.runs
            if run.key in missing
        ]

    def tracker(self) -> type[ForkProgress]:
        return ForkProgress

    def run(self, task: ForkTask, warm: WarmState) -> TaskDone:
        from pipeline.runs.tasks import run_fork

        folder = RunFolder(task.out, FORK)
        prober, starts = warm.prober(task.spec.probe, folder, task.device), warm.kept("fork starts", dict)
        if not task.monitor:
            return run_fork(task, prober, starts)
        from pipeline.monitor.watched_forks import RunWatch

        spec, text = task.spec, task.spec.probe.tokens_sha256
        watch = RunWatch(task.arm, spec.rates, spec.probe.variants, len(spec.probe_steps), tokens_sha256=text)

        def on_probe(rows: list[dict[str, Any]]) -> None:
            if watch(rows):
                folder.verdicts.write(task.key, watch.record.to_bytes())

        done = run_fork(task, prober, starts, on_probe)
        verdict = watch.record.verdict
        told = verdict is not None and verdict.alarm
        return replace(done, notes=(*done.notes, watch.record.sentence)) if told else done

    def unfinished(self, folder: RunFolder, plan: ForkPlan, found: FolderStatus) -> Unfinished:
        made = folder.states.updates_made()
        here = {key: made[key] for key in found.to_measure if key in made}
        lines = [f"{key}: {updates:,} of {plan.updates:,} updates" for key, updates in here.items()]
        return Unfinished({"updates_of_a_run": plan.updates, "updates_made": here}, lines)

    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        from pipeline.analysis.forks.fork_reduce import reduce_fork, write_fork_reduction
        from pipeline.analysis.terminal import comparison_text

        reduction = reduce_fork(folder, allow_missing=allow_missing, seed=seed)
        if (plan := folder.read_plan()).monitor:
            reduction = _with_verdicts(folder, plan, reduction)
        write_fork_reduction(folder, reduction)
        report = reduction.report
        return Reduced(report.sentences, (f"tables: {folder.place(TABLES)}",), comparison_text(report))

    def page(self, folder: RunFolder) -> list[str]:
        from pipeline.report.run_pages import report_fork

        return report_fork(folder)


def _with_verdicts(folder: RunFolder, plan: ForkPlan, reduction: ForkReduction) -> ForkReduction:
    """``reduction`` with a sentence of the monitor; writes the verdicts on all its runs, also on those that were
    trained before they were asked for.
    """
    import polars as pl

    from pipeline.monitor.watched_forks import RunWatch, experiment_sentence
    from pipeline.train.schedules import ForkRates

    rates, variants = ForkRates(**plan.config["rates"]), parse_variants(plan.probe["variants"])
    probes = len(probe_steps(rates.steps, plan.config["probe_every"]))
    records = {}
    for run in plan.runs:
        rows = reduction.table.filter(pl.col("run_id") == run.key)
        if rows.is_empty():
            continue
        watch = RunWatch(run.arm, rates, variants, probes, tokens_sha256=plan.probe["tokens_sha256"])
        watch(rows.iter_rows(named=True))
        records[run.key] = watch.record
        if folder.verdicts.read(run.key) != watch.record.to_bytes():
            folder.verdicts.write(run.key, watch.record.to_bytes())
    report = reduction.report
    report = replace(report, sentences=(*report.sentences, experiment_sentence(records)))
    return replace(reduction, report=report)


def _note(request: ForkRequest) -> dict[str, Any]:
    """The note beside the training tokens."""
    return {**(request.train.made_of or {}), "tokens_sha256": request.spec.train_sha256}


class ForkProgress(ProgressTracker):
    """Reports the unfinished runs' progress from their saved states; costs one listing per check."""

    def arranged(self, tasks: list[ForkTask], plan: ForkPlan, whole: FolderStatus) -> list[ForkTask]:
        del whole
        self._steps, self._keys = plan.updates, {task.key for task in tasks}
        self._looked, self._made = time.monotonic(), self._list()
        self.resume(self._shares())
        return tasks

    def look(self) -> None:
        """Check the progress, unless just done, and return what has changed."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        before = self._made
        with suppress(OutputError):  # a fault of the folder is reported where the folder is needed
            self._made = self._list()
        self._looked = time.monotonic()
        changed = {key: made for key, made in self._made.items() if made != before.get(key)}
        for key, made in changed.items():
            self.events("advanced", key=key, updates=made, of=self._steps)
        if changed:
            self.advance(self._shares())

    def _list(self) -> dict[str, int]:
        return {key: made for key, made in self._out.states.updates_made().items() if key in self._keys}

    def _shares(self) -> dict[str, float]:
        return {key: made / self._steps for key, made in self._made.items()}
