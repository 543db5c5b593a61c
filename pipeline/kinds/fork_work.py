"""``fork``: the schedule experiment, trained, probed, compared and reported."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.monitor.watched_forks import RunWatch, experiment_sentence
from pipeline.runs.calibration_tokens import write_calibration
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.fork_progress import ForkProgress
from pipeline.runs.kind_of_work import KindOfWork, Reduced, Unfinished, register
from pipeline.runs.plans import ForkPlan
from pipeline.runs.requests import ForkRequest
from pipeline.runs.result_files import TABLES
from pipeline.runs.shard_schema import FORK
from pipeline.runs.task_values import ForkTask
from pipeline.runs.tasks import TaskDone, run_fork
from pipeline.runs.warm_state import WarmState

if TYPE_CHECKING:
    from pipeline.analysis.forks.fork_reduce import ForkReduction


@register
class ForkWork(KindOfWork):
    """Train from one checkpoint under several schedules and seeds, with probes on the way."""

    name = "fork"
    kind = FORK
    long_tasks = True

    def plan(self, request: ForkRequest) -> ForkPlan:
        return request.plan()

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

        folder = RunFolder(task.out, FORK)
        prober, starts = warm.prober(task.spec.probe, folder, task.device), warm.kept("fork starts", dict)
        if not task.monitor:
            return run_fork(task, prober, starts)
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
        lines = [f"{key}: {updates:,} of {plan.rates.steps:,} updates" for key, updates in here.items()]
        return Unfinished({"updates_of_a_run": plan.rates.steps, "updates_made": here}, lines)

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

    records = {}
    for run in plan.runs:
        rows = reduction.table.filter(pl.col("run_id") == run.key)
        if rows.is_empty():
            continue
        watch = RunWatch(
            run.arm, plan.rates, plan.variants, plan.n_probes, tokens_sha256=plan.probe["tokens_sha256"]
        )
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
