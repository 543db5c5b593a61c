"""The dated events of a run, read from ``report.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.html_text import interval

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
    step: float | None
    """Step; None if it did not happen or is unknown."""
    ci: tuple[float, float] | None = None
    """95 % interval of ``step``; None if the step is exact."""
    lag: float | None = None
    """Onset minus this event, in steps; positive = the onset is later."""
    lag_ci: tuple[float, float] | None = None
    """95 % interval of ``lag``."""
    reason: str = ""
    """Reason for a missing step or lag."""


def label_of(name: str) -> str:
    """An event's name in words; unknown names are shown with spaces."""
    return LABELS.get(name, name.replace("_", " "))


def read_events(report: Mapping[str, Any]) -> tuple[DatedEvent, ...]:
    """The candidate events in step order; those that did not happen come last."""
    predictors = report.get("predictors") or {}
    found = []
    for entry in predictors.get("events") or []:
        name = str(entry.get("event", "event"))
        found.append(
            DatedEvent(
                name,
                label_of(name),
                _number(entry.get("step")),
                interval(
                    entry.get("step_ci") or (report.get("convergence_ci") if name == "fp32_plateau" else None)
                ),
                _number(entry.get("onset_minus_event")),
                interval(entry.get("onset_minus_event_ci")),
                str(entry.get("reason") or ""),
            )
        )
    return tuple(sorted(found, key=lambda event: math.inf if event.step is None else event.step))


def milestones(report: Mapping[str, Any]) -> tuple[DatedEvent, ...]:
    """Convergence and onset, as far as they were found."""
    found = []
    onset = f"{subject(report)} onset"
    for name, label in (("convergence", "FP32 converged"), ("onset", onset)):
        when = _number(report.get(f"{name}_step"))
        if when is not None:
            found.append(DatedEvent(name, label, when, interval(report.get(f"{name}_ci"))))
    return tuple(found)


def subject(report: Mapping[str, Any]) -> str:
    """Label of the variant whose damage the report analyses."""
    return str(report.get("variant") or "int4").replace("_", "-").upper().split("-CHANNEL")[0]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
