"""The verdict in words: headline, sentences and evidence.

It uses numbers of the report only. The sentences on convergence, onset and its likely cause come from
``pipeline.analysis``; this module orders them and adds the magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.findings import GrowthKind
from pipeline.analysis.trajectory.kurtosis import KurtosisTest
from pipeline.analysis.trajectory.summary import Summary
from pipeline.report import html_text as text
from pipeline.report.event_marks import subject


@dataclass(frozen=True)
class WrittenVerdict:
    """Plain sentences, not yet escaped."""

    warning: str
    """First line of the page when checkpoints are missing; else empty."""
    headline: str
    """The finding in one sentence."""
    findings: tuple[str, ...]
    """The analysis' sentences on convergence, onset and what the onset follows."""
    magnitudes: tuple[str, ...]
    """Sentences on the size of the damage and on what to do."""
    grounds: tuple[tuple[str, str], ...]
    """(claim, evidence)."""


def make_verdict(report: AuditReport) -> WrittenVerdict:
    """The verdict on ``report``; what it does not hold is skipped."""
    summary, name = report.summary, subject(report)
    magnitudes = (_best(report), _gaps(summary, name), _int8(report), _kurtosis(summary.kurtosis_test))
    return WrittenVerdict(
        warning=report.missing_sentence(),
        headline=_headline(summary, name),
        findings=summary.verdict,
        magnitudes=tuple(filter(None, magnitudes)),
        grounds=tuple(_grounds(summary)),
    )


def _headline(found: Summary, name: str) -> str:
    onset, converged = found.onset_step, found.convergence_step
    full = f"full precision {'may converge' if found.convergence_at_limit else 'converges'}"
    if onset is None:
        if found.onset_evidence is None:
            return f"Cannot tell whether {name} damage takes off."
        if found.growth is GrowthKind.LEARNING_RATE:
            return f"{name} damage grows as the learning rate falls; no onset beyond that was detected."
        tail = "" if converged is None else f", although {full} at step {text.step(converged)}"
        return f"No onset was detected: no step was found from which {name} damage takes off{tail}."
    when = "at or after" if found.onset_at_or_after else "at"
    start = f"{name} damage takes off {when} step {text.step(onset)}"
    if converged is None:
        return f"{start}; full precision was not seen to converge."
    apart = onset - converged
    if apart == 0:
        return f"{start}, where {full}."
    return f"{start}, {text.step(abs(apart))} steps {'after' if apart > 0 else 'before'} {full}."


def _gaps(found: Summary, name: str) -> str:
    first, last, most = found.gaps.int4_gap_first, found.gaps.int4_gap_last, found.gaps.int4_gap_max
    if first is None or last is None:
        return ""
    peak = f", at most {text.percent(most)}" if most is not None and most > last * 1.02 else ""
    return (
        f"Perplexity under {name} is {text.percent(first)} above full precision at the first "
        f"checkpoint and {text.percent(last)} at the last{peak}."
    )


def _int8(report: AuditReport) -> str:
    most = report.summary.gaps.int8_gap_max
    if most is None:
        return ""
    cost = (
        f"INT8 never costs more than {text.percent(most)}." if most > 0 else "INT8 costs nothing measurable."
    )
    return cost if report.square_law is None else f"{cost} {report.square_law.sentence}"


def _best(report: AuditReport) -> str:
    if report.decision is not None:
        return report.decision.headline.sentence
    best = report.summary.gaps.best_checkpoint_for_int4
    return "" if best is None else f"Step {text.step(best)} has the lowest {subject(report)} loss."


def _kurtosis(test: KurtosisTest | None) -> str:
    if test is None or test.pearson_r is None:
        return ""
    r, ci, p = test.pearson_r, test.pearson_ci, test.pearson_p
    if test.related is None:  # a report of an earlier version
        meaning = "beside the gap"
    elif test.related:
        meaning = "rises with the gap" if r > 0 else "falls as the gap grows"
    else:
        meaning = "shows no clear relation to the gap"
    span = "" if ci is None else f", 95 % interval {text.decimals(ci[0])} to {text.decimals(ci[1])}"
    chance = "" if p is None else f", p = {text.number(p, 2)}"
    left, left_p = test.detrended_pearson_r, test.detrended_pearson_p
    beside = f"; without straight trends r = {text.decimals(left)}" if left is not None else ""
    beside += f", p = {text.number(left_p, 2)}" if left is not None and left_p is not None else ""
    return (
        f"After the onset, weight kurtosis {meaning} "
        f"(r = {text.decimals(r)}{span}{chance}, n = {test.n}{beside})."
    )


def _grounds(found: Summary) -> list[tuple[str, str]]:
    """The evidence of each claim, from the analysis."""
    level = f"{100 * (found.level or 0.95):.0f} %"
    claims = [
        ("Onset", _onset_ground(found, level)),
        ("Learning rate", _dose_ground(found, level)),
        ("Convergence", _convergence_ground(found, level)),
        ("Kurtosis", _kurtosis_ground(found.kurtosis_test)),
        ("Checkpoints", _checkpoints_ground(found)),
        ("Intervals", f"count {found.intervals}" if found.intervals else ""),
    ]
    return [(claim, basis) for claim, basis in claims if basis]


def _onset_ground(found: Summary, level: str) -> str:
    if found.onset_step is None:
        return ""
    seen, ci, parts = found.onset_evidence, found.onset_ci, []
    if ci is not None:
        end = "or later" if found.onset_at_or_after else f"to {text.step(ci[1])}"
        parts.append(f"{level} interval {text.step(ci[0])} {end}")
    if found.p_onset is not None:
        parts.append(f"p = {text.number(found.p_onset, 2)} that a curve without an onset looks like this")
    if found.p_beyond_learning_rate is not None:
        p = text.number(found.p_beyond_learning_rate, 2)
        parts.append(f"p = {p} that one which answers to the learning rate does")
    if seen is not None and seen.growth_ratio is not None:
        parts.append(f"growth {text.number(seen.growth_ratio, 2)} times that before")
    if seen is not None and seen.noise_sd:
        rise = text.number(seen.rise / seen.noise_sd, 2)
        parts.append(f"the rise is {rise} times the scatter of one checkpoint")
    return "; ".join(parts)


def _dose_ground(found: Summary, level: str) -> str:
    dose = found.dose
    if dose is None:
        return ""
    low, high = text.decimals(dose.lower), text.decimals(dose.upper)
    return f"{text.decimals(dose.estimate)} points of gap per halving ({level} interval {low} to {high})"


def _convergence_ground(found: Summary, level: str) -> str:
    ci, share = found.convergence_ci, found.convergence_share
    told = f"{100 * share:.0f} % of the resampled curves converge" if share else ""
    if found.convergence_step is None or ci is None:
        return f"none is claimed; {told}" if told else ""
    parts = [f"{level} interval {text.step(ci[0])} to {text.step(ci[1])}", told]
    if found.convergence_at_limit:
        parts.append("the step lies at the limit of what the rule sees")
    return "; ".join(filter(None, parts))


def _kurtosis_ground(test: KurtosisTest | None) -> str:
    if test is None:
        return ""
    if test.reason:
        return f"not tested: {test.reason}"
    worth, used = test.n_effective_unclipped, test.n_effective
    if worth is None or used is None:
        return ""
    floor = f" (p is that of {used:g})" if worth < used else ""
    return f"{test.n} checkpoints are worth {worth:.1f} independent ones{floor}"


def _checkpoints_ground(found: Summary) -> str:
    if found.n_used is None:
        return ""
    broken = f"; {found.n_not_finite} diverged and left out" if found.n_not_finite else ""
    twice = f"; {found.n_duplicates} with the weights of another left out" if found.n_duplicates else ""
    return f"{text.step(found.n_used)} entered the fits{broken}{twice}"
