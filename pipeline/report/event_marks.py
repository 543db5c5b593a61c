"""The dated events of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.schedule_events import FP32_PLATEAU
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
    """An event at a step, and its distance to the onset."""

    name: str
    """Key, such as ``half_peak_learning_rate``."""
    label: str
    """Label in words."""
    step: int | None
    """Step; None if it did not happen or is unknown."""
    ci: tuple[int, int] | None = None
    """95 % interval of ``step``; None if the step is exact."""
    lag: int | None = None
    """Onset minus this event, in steps; positive = the onset is later."""
    lag_ci: tuple[int, int] | None = None
    """95 % interval of ``lag``."""
    reason: str = ""
    """Reason for a missing step or lag."""


def label_of(name: str) -> str:
    """An event's name in words; unknown names are shown with spaces."""
    return LABELS.get(name, name.replace("_", " "))


def read_events(summary: Summary) -> tuple[DatedEvent, ...]:
    """The candidate events in step order; those that did not happen come last."""
    found = () if summary.predictors is None else summary.predictors.events
    dated = (
        DatedEvent(
            event.event,
            label_of(event.event),
            event.step,
            event.step_ci or (summary.convergence_ci if event.event == FP32_PLATEAU else None),
            event.onset_minus_event,
            event.onset_minus_event_ci,
            event.reason or "",
        )
        for event in found
    )
    return tuple(sorted(dated, key=lambda event: math.inf if event.step is None else event.step))


def milestones(report: AuditReport) -> tuple[DatedEvent, ...]:
    """Convergence and onset, as far as they were found."""
    found, onset = report.summary, f"{subject(report)} onset"
    stones = (
        DatedEvent("convergence", "FP32 converged", found.convergence_step, found.convergence_ci),
        DatedEvent("onset", onset, found.onset_step, found.onset_ci),
    )
    return tuple(each for each in stones if each.step is not None)


def subject(report: AuditReport) -> str:
    """Label of the variant whose damage the report analyses."""
    column = report.summary.variant or "int4"
    return variant_label(column, report.variants)
