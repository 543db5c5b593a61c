"""``audit``: every checkpoint of a suite, quantized, measured and reported."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.runs.audit_options import DecisionOptions
from pipeline.runs.calibration_tokens import write_calibration
from pipeline.runs.checkpoint_plan import checkpoint_plan
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.kind_of_work import KindOfWork, Reduced, register
from pipeline.runs.plans import RunPlan
from pipeline.runs.requests import AuditRequest
from pipeline.runs.result_files import REPORT, TABLES
from pipeline.runs.shard_schema import AUDIT
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.tasks import TaskDone, run_probe
from pipeline.runs.warm_state import WarmState

if TYPE_CHECKING:
    from pipeline.runs.audit_progress import AuditProgress


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
        for checkpoint in (each for each in plan.checkpoints if each.key in wanted):
            probe = request.probe.at(plan.steps_of(checkpoint.key))
            lacks = found.incomplete.get(checkpoint.key)
            task = ProbeTask(
                suite=plan.suite,
                checkpoint=checkpoint,
                probe=probe,
                out=request.out.location,
                duplicates=tuple(duplicates.get(checkpoint.key, ())),
                cache_gb=request.cache_gb,
                stream=request.stream,
                adds=None if lacks is None else lacks.part_of(probe),
            )
            if task.measuring.swapped:  # its weights get the rounding errors of the other step
                steps = task.measuring.swap
                other = next(each for each in request.suite.checkpoints if each.step in steps)
                task = replace(task, beside=other)
            tasks.append(task)
        return tasks

    def tracker(self) -> type[AuditProgress]:
        from pipeline.runs.audit_progress import AuditProgress  # imports Ray

        return AuditProgress

    def run(self, task: ProbeTask, warm: WarmState) -> TaskDone:
        prober = warm.prober(task.measuring, RunFolder(task.out), task.device)
        return run_probe(task, prober, warm.fetcher(task.cache_gb), warm.turn)

    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        from pipeline.analysis.terminal import trajectory_text
        from pipeline.analysis.trajectory.reduction import reduce_run, write_reduction

        reduction = reduce_run(folder, allow_missing=allow_missing, seed=seed)
        write_reduction(folder, reduction)
        places = (f"tables: {folder.place(TABLES)}", f"numbers: {folder.place(REPORT)}")
        report = reduction.report
        sentences = (*filter(None, [report.missing_sentence()]), *report.summary.verdict)
        return Reduced(sentences, places, trajectory_text(reduction.trajectory, report.variants))

    def decide(self, folder: RunFolder, chosen: DecisionOptions) -> list[str]:
        from pipeline.analysis.trajectory.reduction import redecide

        return redecide(folder, tolerance_nats=chosen.tolerance_nats, level=chosen.level)

    def page(self, folder: RunFolder) -> list[str]:
        from pipeline.report.run_pages import report_audit

        return report_audit(folder)
