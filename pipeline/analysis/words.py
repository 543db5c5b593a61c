"""The verdict in plain English, made from the numbers of a report and nothing else."""

from __future__ import annotations

from pipeline.analysis.events import EVENT_WORDS
from pipeline.analysis.findings import PhaseReport

NOTABLE_RISE_NATS = 0.01
"""A late rise of the FP32 loss smaller than this is not worth a sentence."""


def verdict(report: PhaseReport) -> list[str]:
    """Sentences in reading order: convergence, onset, what it follows, what was left out."""
    out = [_convergence(report), _onset(report)]
    if report.onset_step is not None:
        out.append(_follows(report))
    if report.n_not_finite:
        out.append(f"{report.n_not_finite} checkpoints are left out because a loss is not finite (diverged).")
    return out


def _range(ci: tuple[int, int] | None, level: float) -> str:
    return "" if ci is None else f" ({level:.0%} interval {ci[0]:,} to {ci[1]:,})"


def _convergence(report: PhaseReport) -> str:
    if report.convergence_step is None:
        return f"Full precision: {report.convergence_reason}."
    where = f"step {report.convergence_step:,}{_range(report.convergence_ci, report.level)}"
    rise = report.fp32_late_rise_nats or 0.0
    if rise > NOTABLE_RISE_NATS and report.fp32_best_step is not None:
        after = f"after its best at step {report.fp32_best_step:,} its loss rises again by {rise:.2f} nats"
        return f"Full precision converges at {where}; {after}."
    return f"Full precision converges at {where}."


def _onset(report: PhaseReport) -> str:
    name = report.variant.upper() if report.variant in ("int4", "int8") else report.variant
    if report.onset_step is None or report.onset_evidence is None:
        return f"{name} damage: {report.onset_reason}."
    seen = report.onset_evidence
    if seen.growth_ratio is None:
        pace = "from no growth before"
    elif seen.growth_ratio > 100:
        pace = "more than 100 times as fast as before"
    else:
        pace = f"{seen.growth_ratio:.1f} times as fast as before"
    return (
        f"{name} damage takes off at step {report.onset_step:,}{_range(report.onset_ci, report.level)}: "
        f"the gap then grows by {100 * seen.rise:.1f} points to the end, {pace} (p = {seen.p_value:.3f})."
    )


def _follows(report: PhaseReport) -> str:
    found = report.predictors
    if found.follows == "cannot tell":
        names = " and ".join(EVENT_WORDS.get(e, e) for e in found.coincide)
        return f"The data cannot tell what the onset follows: its interval holds {names}."
    if found.follows != "none":
        name = EVENT_WORDS.get(found.follows, found.follows)
        return f"Of the candidate events only {name} coincides with the onset."
    before = [e for e in found.events if e.onset_minus_event is not None and e.onset_minus_event > 0]
    if not before:
        return "The onset comes before every candidate event, so it follows none of them."
    near = min(before, key=lambda e: e.onset_minus_event or 0)
    name = EVENT_WORDS.get(near.event, near.event)
    lag = f"{near.onset_minus_event:,} steps"
    return f"No candidate event coincides with the onset; the nearest before it is {name}, by {lag}."
