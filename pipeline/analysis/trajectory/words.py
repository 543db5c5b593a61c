"""Sentences of the verdict, from the numbers of a report only."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.analysis.trajectory.findings import GrowthKind, PhaseReport, Resampled
from pipeline.analysis.trajectory.rate_response import Dose
from pipeline.analysis.trajectory.schedule_events import EVENT_WORDS, Follows, Predictor
from pipeline.spec import variant_label


def verdict(report: PhaseReport, names: Mapping[str, str] | None = None) -> list[str]:
    """Sentences in reading order: convergence, growth or onset, what it follows, what was left out.

    ``names``: column prefix -> name of the variants, where these are known.
    """
    out = [_convergence(report), _growth(report, variant_label(report.variant, names))]
    if report.growth is GrowthKind.ONSET:
        out.append(_follows(report))
    elif report.predictors.follows in (Follows.CANNOT_TELL, Follows.DECAY_START):
        out.append(_response(report))
    if report.growth is GrowthKind.ONSET and report.no_second_phase is not None:
        out.append(f"There is no second phase, a plateau before the onset: {report.no_second_phase}.")
    out += _left_out(report)
    if report.growth is not GrowthKind.NONE or report.convergence_step is not None:
        out.append(_counted(report))
    return out


def _range(ci: tuple[int, int] | None, level: float) -> str:
    return "" if ci is None else f" ({level:.0%} interval {ci[0]:,} to {ci[1]:,})"


def _convergence(report: PhaseReport) -> str:
    step = report.convergence_step
    if step is None:
        return f"Full precision: {report.convergence_reason}."
    after = ""
    if report.fp32_gets_worse and report.fp32_best_step is not None:
        rise = f"{report.fp32_late_rise_nats or 0.0:.2f} nats"
        after = f"; after its best at step {report.fp32_best_step:,} its loss rises again by {rise}"
    if report.convergence_at_or_before:
        return (
            f"Full precision converges at or before step {step:,}, the first that is used{after}: "
            f"the window is too short to see it converge.{_how_sure(report)}"
        )
    interval = _range(report.convergence_ci, report.level)
    return f"Full precision converges at step {step:,}{interval}{after}.{_how_sure(report)}"


def _how_sure(report: PhaseReport) -> str:
    """The doubts about the convergence, as a sentence; empty if there are none."""
    doubts, share = [], report.convergence_share
    if share is not None and share < report.level:
        doubts.append(f"only {share:.0%} of the resampled curves converge")
    if report.convergence_at_limit:
        doubts.append("the step lies at the limit of what the rule sees, so that it may as well come later")
    return f" This is uncertain: {'; '.join(doubts)}." if doubts else ""


def _growth(report: PhaseReport, name: str) -> str:
    dose, seen = report.dose, report.onset_evidence
    if report.growth is GrowthKind.LEARNING_RATE and dose is not None:
        why = (report.onset_reason or "").removeprefix("no onset detected: ")
        return (
            f"{name} damage grows as the learning rate falls, by {_dose(dose, report.level)}; "
            f"nothing is detected beyond that: {why}."
        )
    if report.onset_step is None or seen is None:
        beside = ""
        if dose is not None and dose.lower > 0:
            beside = (
                f" It grows as the learning rate falls, by {_dose(dose, report.level)}, "
                "but growth that accelerates steadily in time fits as well."
            )
        return f"{name} damage: {report.onset_reason}.{beside}"
    if seen.growth_ratio is None:
        pace = "from no growth before"
    elif seen.growth_ratio > 100:
        pace = "more than 100 times as fast as before"
    else:
        pace = f"{seen.growth_ratio:.1f} times as fast as before"
    when = "at or after" if report.onset_at_or_after else "at"
    return (
        f"{name} damage takes off {when} step {report.onset_step:,}{_onset_range(report)}: "
        f"the gap then grows by {100 * seen.rise:.1f} points to the end, {pace} (p = {report.p_onset or 0.0:.3f})"
        f"{_beyond(report)}."
    )


def _onset_range(report: PhaseReport) -> str:
    if report.onset_at_or_after and report.onset_ci is not None:
        return f" ({report.level:.0%} interval {report.onset_ci[0]:,} or later)"
    return _range(report.onset_ci, report.level)


def _beyond(report: PhaseReport) -> str:
    p = report.p_beyond_learning_rate
    if p is None:
        return ", but without a learning rate in the table a response to it cannot be told from an onset"
    return f", more than a response to the learning rate explains (p = {p:.3f})"


def _dose(dose: Dose, level: float) -> str:
    interval = f"{level:.0%} interval {dose.lower:.2f} to {dose.upper:.2f}"
    return f"{dose.estimate:.2f} points per halving ({interval}) beside its steady growth"


def _follows(report: PhaseReport) -> str:
    found = report.predictors
    together = [e for e in found.events if e.coincides]
    if len(together) > 1:
        *names, last = (f"{_name(e)} ({_lag(e)})" for e in together)
        held = f"{', '.join(names)} and {last}"
        return f"The data cannot tell what the onset follows: its interval holds {held}."
    if together:
        (only,) = together
        where = f"{_lag(only)}{_range(only.onset_minus_event_ci, report.level)}"
        return f"The onset follows {_name(only)}, the only candidate event within its interval: {where}."
    near = min((e for e in found.events if _steps_after(e) > 0), key=_steps_after, default=None)
    if near is None:
        return "The onset comes before every candidate event, so it follows none of them."
    return (
        f"No candidate event coincides with the onset; the nearest before it is {_name(near)}, "
        f"by {_steps_after(near):,} steps."
    )


def _response(report: PhaseReport) -> str:
    """Events at the step where growth that the rate explains would take off."""
    held = " and ".join(EVENT_WORDS[event] for event in report.predictors.coincide)
    if report.predictors.follows is Follows.DECAY_START:
        return f"It grows from {held} on, the only candidate event where time alone would have it take off."
    return f"The data cannot tell that from {held}, which lies where time alone would have it take off."


def _left_out(report: PhaseReport) -> list[str]:
    reasons = (
        (report.n_not_finite, "a loss is not finite (diverged)"),
        (report.n_duplicates, "the weights are those of an earlier one"),
    )
    return [
        f"{count} {'checkpoint is' if count == 1 else 'checkpoints are'} left out because {why}."
        for count, why in reasons
        if count
    ]


def _counted(report: PhaseReport) -> str:
    if report.intervals is Resampled.CHECKPOINTS_AND_TEXT:
        return "Intervals count the scatter of the checkpoints and the choice of the evaluation text."
    return (
        "Intervals count the scatter of the checkpoints alone, on this text: there are no losses per batch."
    )


def _steps_after(event: Predictor) -> int:
    """Steps from an event to the onset; 0 where there is none."""
    return event.onset_minus_event or 0


def _name(event: Predictor) -> str:
    return EVENT_WORDS.get(event.event, event.event)


def _lag(event: Predictor) -> str:
    """Position of the event relative to the onset."""
    steps = _steps_after(event)
    return "the same step" if steps == 0 else f"{abs(steps):,} steps {'earlier' if steps > 0 else 'later'}"
