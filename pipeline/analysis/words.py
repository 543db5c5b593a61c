"""The verdict in plain English, made from the numbers of a report and nothing else."""

from __future__ import annotations

from pipeline.analysis.events import EVENT_WORDS, Predictor
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
    after = ""
    if rise > NOTABLE_RISE_NATS and report.fp32_best_step is not None:
        after = f"; after its best at step {report.fp32_best_step:,} its loss rises again by {rise:.2f} nats"
    return f"Full precision converges at {where}{after}.{_how_sure(report)}"


def _how_sure(report: PhaseReport) -> str:
    """What makes the convergence doubtful, as a sentence; empty where nothing does."""
    doubts = []
    if report.convergence_share is not None and report.convergence_share < report.level:
        doubts.append(f"only {report.convergence_share:.0%} of the resampled curves converge")
    if report.convergence_at_limit:
        doubts.append("the step lies at the limit of what the rule sees, so that it may as well come later")
    return f" This is uncertain: {'; '.join(doubts)}." if doubts else ""


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
    together = [e for e in found.events if e.coincides]
    if len(together) > 1:
        *names, last = (f"{_name(e)} ({_lag(e)})" for e in together)
        held = f"{', '.join(names)} and {last}"
        return f"The data cannot tell what the onset follows: its interval holds {held}."
    if together and found.follows is not None:
        (only,) = together
        lag = f"{_steps_after(only):,} steps{_range(only.onset_minus_event_ci, report.level)}"
        return f"The onset follows {_name(only)}, the only candidate event within its interval, by {lag}."
    near = min((e for e in found.events if _steps_after(e) > 0), key=_steps_after, default=None)
    nearest = (
        "" if near is None else f"; the nearest before it is {_name(near)}, by {_steps_after(near):,} steps"
    )
    if together:
        alone = f"{_name(together[0])} alone ({_lag(together[0])})"
        return f"The onset coincides with {alone}, and an effect does not come first{nearest}."
    if near is None:
        return "The onset comes before every candidate event, so it follows none of them."
    return f"No candidate event coincides with the onset{nearest}."


def _steps_after(event: Predictor) -> int:
    """Steps from an event to the onset; 0 where there is none."""
    return event.onset_minus_event or 0


def _name(event: Predictor) -> str:
    return EVENT_WORDS.get(event.event, event.event)


def _lag(event: Predictor) -> str:
    """Where the event lies, as seen from the onset."""
    steps = _steps_after(event)
    return "the same step" if steps == 0 else f"{abs(steps):,} steps {'earlier' if steps > 0 else 'later'}"
