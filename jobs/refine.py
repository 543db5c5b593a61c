"""``run --refine``: the undecided checkpoints again, on new tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jobs.audit import run_audit
from jobs.console import console, errors
from pipeline.base.errors import CollapseError, OverlapError, TooFewTokensError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.calibration_tokens import CalibrationTokens, read_calibration
from pipeline.runs.output import run_folder
from pipeline.runs.result_files import REPORT
from pipeline.spec import Variant


def show_refinement(options: AuditOptions, *, seed: int) -> bool:
    """Refine the decision in the folder of ``options``, keep and print it; False where no round could be done."""
    from pipeline.analysis.decision import Undecided
    from pipeline.analysis.trajectory.audit_report import AuditReport
    from pipeline.analysis.trajectory.reduction import write_report
    from pipeline.analysis.trajectory.refinement import NewMeasurement, refine

    folder = run_folder(options.out)
    report, plan = folder.results.read_as(AuditReport, REPORT), folder.read_plan()
    if report is None or report.decision is None:
        errors.print("nothing to refine: no checkpoint was chosen")
        return False
    decided, chosen = report.decision, report.decision.headline.found
    if isinstance(chosen, Undecided):
        errors.print(f"nothing to refine: {chosen.reason}")
        return False
    variant = report.variants[chosen.variant]
    # The same model is measured again, so its calibration text stays, whatever the options would give for more text.
    calibrated_on = None
    if Variant.parse(variant).needs:
        sha256 = str(plan.config["calibration_sha256"])
        calibrated_on = CalibrationTokens(read_calibration(folder, sha256), sha256, plan.calibration)

    def measure(steps: Sequence[int], used: int, new: int) -> NewMeasurement | str:
        import polars as pl

        from pipeline.analysis.trajectory.reduction import reduce_run, write_reduction
        from pipeline.analysis.trajectory.shipping import decisions_of

        again = dataclasses.replace(
            options, out=f"{options.out.rstrip('/')}/refined-{new}", steps=tuple(steps), limit=None, batches=used + new,
            variants=("fp32", variant), mechanism=(), flatness=(), swap=(), measurements=(), calibration=None,
        )  # fmt: skip
        try:
            code = run_audit(
                again, change=lambda request: request.without_first(used), calibrated_on=calibrated_on
            )
        except TooFewTokensError as error:
            return f"{new:,} new batches are not there ({error})"
        except OverlapError as error:
            return f"{variant} was calibrated on some of the next {new:,} batches ({error})"
        if code:
            raise CollapseError(
                f"{again.out}: some of the undecided checkpoints failed; run it again to resume"
            )
        reduction = reduce_run(run_folder(again.out), seed=seed)
        write_reduction(run_folder(again.out), reduction)
        candidates = reduction.trajectory.filter(pl.col("step").is_in(steps))
        decision = decisions_of(candidates, decided.settings, seed=seed)[chosen.variant]
        shape = run_folder(again.out).read_plan().config["shape"]
        tokens = len(steps) * shape["batches"] * shape["batch_size"] * shape["seq_len"]
        return NewMeasurement(decision, tokens, reduction.report.wall_s)

    found = refine(chosen.maybe_best, plan.config["shape"]["batches"], measure)
    write_report(folder, dataclasses.replace(report, decision=decided.refine(found)))
    (console if found.rounds else errors).print(found.sentence)
    return bool(found.rounds) or len(chosen.maybe_best) == 1
