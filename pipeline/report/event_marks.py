"""The dated events of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.schedule_events import FP32_PLATEAU, Predictor
from pipeline.analysis.trajectory.summary import Summary
from pipeline.spec import variant_label

LABELS = {
    "warmup_end": "End of warm-up",
    "fp32_plateau": "FP32 plateau (convergence)",
    "fp32_best": "Best FP32 loss",
    "decay_start": "Start of the decay",
    "half_peak_learning_rate": "Half of peak learning rate",
    "min_learning_rate": "Minimum learning rate",
}


@dataclass(frozen=True)
class DatedEvent:
    """An event that happened."""

    name: str
    """Key, such as ``half_peak_learning_rate``."""
    label: str
    step: int
    ci: tuple[int, int] | None
    """95 % interval of ``step``; None if the step is exact."""


def label_of(name: str) -> str:
    """An event's name in words; unknown names are shown with spaces."""
    return LABELS.get(name, name.replace("_", " "))


def candidates(summary: Summary) -> list[Predictor]:
    """The events that the onset may follow, in step order; those that did not happen come last."""
    found = () if summary.predictors is None else summary.predictors.events
    plateau = {FP32_PLATEAU: summary.convergence_ci}
    dated = [replace(each, step_ci=each.step_ci or plateau.get(each.event)) for each in found]
    return sorted(dated, key=lambda each: math.inf if each.step is None else each.step)


def milestones(report: AuditReport) -> list[DatedEvent]:
    """Convergence and onset, as far as they were found."""
    found = report.summary
    stones = (
        ("convergence", "FP32 converged", found.convergence_step, found.convergence_ci),
        ("onset", f"{subject(report)} onset", found.onset_step, found.onset_ci),
    )
    return [DatedEvent(name, label, step, ci) for name, label, step, ci in stones if step is not None]


def subject(report: AuditReport) -> str:
    """Label of the variant whose damage the report analyses."""
    return variant_label(report.summary.variant or "int4", report.variants)
