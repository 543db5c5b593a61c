"""The verdict in words: headline, sentences and evidence.

It uses numbers of ``report.json`` only. The sentences on convergence, onset and its likely cause come from
``pipeline.analysis``; this module orders them and adds the magnitudes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def make_verdict(report: Mapping[str, Any]) -> WrittenVerdict:
    """The verdict on ``report``; missing keys are skipped."""
    findings = tuple(str(sentence) for sentence in report.get("verdict") or [])
    magnitudes = tuple(filter(None, (_best(report), _gaps(report), _int8(report), _kurtosis(report))))
    return WrittenVerdict(_warning(report), _headline(report), findings, magnitudes, tuple(_grounds(report)))


def _warning(report: Mapping[str, Any]) -> str:
    missing = [str(key) for key in report.get("missing") or []]
    if not missing:
        return ""
    named = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
    plural = "checkpoint is" if len(missing) == 1 else "checkpoints are"
    return f"Incomplete: {len(missing)} expected {plural} missing from this report ({named})."


def _headline(report: Mapping[str, Any]) -> str:
    name, onset, converged = subject(report), report.get("onset_step"), report.get("convergence_step")
    full = f"full precision {'may converge' if report.get('convergence_at_limit') else 'converges'}"
    if onset is None:
        if report.get("onset_evidence") is None:
            return f"Cannot tell whether {name} damage takes off."
        if report.get("growth") == "learning_rate":
            return f"{name} damage grows as the learning rate falls; no onset beyond that was detected."
        tail = "" if converged is None else f", although {full} at step {text.step(converged)}"
        return f"No onset was detected: no step was found from which {name} damage takes off{tail}."
    when = "at or after" if report.get("onset_at_or_after") else "at"
    start = f"{name} damage takes off {when} step {text.step(onset)}"
    if converged is None:
        return f"{start}; full precision was not seen to converge."
    apart = onset - converged
    if apart == 0:
        return f"{start}, where {full}."
    return f"{start}, {text.step(abs(apart))} steps {'after' if apart > 0 else 'before'} {full}."


def _gaps(report: Mapping[str, Any]) -> str:
    first, last, most = (report.get(f"int4_gap_{which}") for which in ("first", "last", "max"))
    if first is None or last is None:
        return ""
    peak = f", at most {text.percent(most)}" if most is not None and most > last * 1.02 else ""
    return (
        f"Perplexity under {subject(report)} is {text.percent(first)} above full precision at the first "
        f"checkpoint and {text.percent(last)} at the last{peak}."
    )


def _int8(report: Mapping[str, Any]) -> str:
    most = report.get("int8_gap_max")
    if most is None:
        return ""
    cost = (
        f"INT8 never costs more than {text.percent(most)}." if most > 0 else "INT8 costs nothing measurable."
    )
    law = report.get("square_law") or {}
    return f"{cost} {law['sentence']}" if law else cost


def _best(report: Mapping[str, Any]) -> str:
    decided = report.get("decision") or {}
    if decided.get("sentence"):
        return str(decided["sentence"])
    best = report.get("best_checkpoint_for_int4")
    return "" if best is None else f"Step {text.step(best)} has the lowest {subject(report)} loss."


def _kurtosis(report: Mapping[str, Any]) -> str:
    test = report.get("kurtosis_test") or {}
    r, n = test.get("pearson_r"), test.get("n")
    if r is None:
        return ""
    ci, p = text.interval(test.get("pearson_ci")), test.get("pearson_p")
    if "related" not in test:  # a report of an earlier version
        meaning = "beside the gap"
    elif test["related"]:
        meaning = "rises with the gap" if r > 0 else "falls as the gap grows"
    else:
        meaning = "shows no clear relation to the gap"
    span = "" if ci is None else f", 95 % interval {text.decimals(ci[0])} to {text.decimals(ci[1])}"
    chance = "" if p is None else f", p = {text.number(p, 2)}"
    left, left_p = test.get("detrended_pearson_r"), test.get("detrended_pearson_p")
    beside = f"; without straight trends r = {text.decimals(left)}" if left is not None else ""
    beside += f", p = {text.number(left_p, 2)}" if left is not None and left_p is not None else ""
    return (
        f"After the onset, weight kurtosis {meaning} (r = {text.decimals(r)}{span}{chance}, n = {n}{beside})."
    )


def _grounds(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The evidence of each claim, from the analysis."""
    level = f"{100 * float(report.get('level') or 0.95):.0f} %"
    found = [
        ("Onset", _onset_ground(report, level)),
        ("Learning rate", _dose_ground(report, level)),
        ("Convergence", _convergence_ground(report, level)),
        ("Kurtosis", _kurtosis_ground(report.get("kurtosis_test") or {})),
        ("Checkpoints", _checkpoints_ground(report)),
        ("Intervals", f"count {report['intervals']}" if report.get("intervals") else ""),
    ]
    return [(claim, basis) for claim, basis in found if basis]


def _onset_ground(report: Mapping[str, Any], level: str) -> str:
    if report.get("onset_step") is None:
        return ""
    seen, ci = report.get("onset_evidence") or {}, text.interval(report.get("onset_ci"))
    parts = []
    if ci:
        end = "or later" if report.get("onset_at_or_after") else f"to {text.step(ci[1])}"
        parts.append(f"{level} interval {text.step(ci[0])} {end}")
    p, beyond = report.get("p_onset", seen.get("p_value")), report.get("p_beyond_learning_rate")
    if p is not None:
        parts.append(f"p = {text.number(p, 2)} that a curve without an onset looks like this")
    if beyond is not None:
        parts.append(f"p = {text.number(beyond, 2)} that one which answers to the learning rate does")
    if seen.get("growth_ratio") is not None:
        parts.append(f"growth {text.number(seen['growth_ratio'], 2)} times that before")
    if seen.get("rise") is not None and seen.get("noise_sd"):
        rise = text.number(seen["rise"] / seen["noise_sd"], 2)
        parts.append(f"the rise is {rise} times the scatter of one checkpoint")
    return "; ".join(parts)


def _dose_ground(report: Mapping[str, Any], level: str) -> str:
    dose = report.get("dose") or {}
    if dose.get("estimate") is None:
        return ""
    low, high = (text.decimals(dose[end]) for end in ("lower", "upper"))
    return f"{text.decimals(dose['estimate'])} points of gap per halving ({level} interval {low} to {high})"


def _convergence_ground(report: Mapping[str, Any], level: str) -> str:
    ci, share = text.interval(report.get("convergence_ci")), report.get("convergence_share")
    told = f"{100 * share:.0f} % of the resampled curves converge" if share else ""
    if report.get("convergence_step") is None or not ci:
        return f"none is claimed; {told}" if told else ""
    parts = [f"{level} interval {text.step(ci[0])} to {text.step(ci[1])}", told]
    if report.get("convergence_at_limit"):
        parts.append("the step lies at the limit of what the rule sees")
    return "; ".join(filter(None, parts))


def _kurtosis_ground(test: Mapping[str, Any]) -> str:
    worth = test.get("n_effective_unclipped")
    if test.get("reason"):
        return f"not tested: {test['reason']}"
    if worth is None:
        return ""
    floor = f" (p is that of {test['n_effective']:g})" if worth < test["n_effective"] else ""
    return f"{test['n']} checkpoints are worth {worth:.1f} independent ones{floor}"


def _checkpoints_ground(report: Mapping[str, Any]) -> str:
    used = report.get("n_used")
    if used is None:
        return ""
    broken = f"; {report['n_not_finite']} diverged and left out" if report.get("n_not_finite") else ""
    twice = (
        f"; {report['n_duplicates']} with the weights of another left out"
        if report.get("n_duplicates")
        else ""
    )
    return f"{text.step(used)} entered the fits{broken}{twice}"
