"""The numbers of a fork experiment as HTML tables."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pipeline.analysis.forks.fork_findings import ArmComparison, ArmFacts, AverageComparison, ForkReport
from pipeline.base.english import counted
from pipeline.report.html_text import MINUS, esc

_SIZES = (
    "difference, points", "95% interval", "by data order alone", "FP32 price, nats", "quantized price, nats",
    "95% interval", "at its end: points", "95% interval", "by data order alone", "FP32 price, nats",
    "quantized price, nats", "95% interval",
)  # fmt: skip
_TESTS = (
    "p", "p corrected", "Welch's p", "naive t (n)", "naive p", "rank-sum p", "wins", "effect size g",
    "detectable, points",
)  # fmt: skip


def comparison_html(report: ForkReport) -> str:
    """One row per comparison with the baseline; empty without comparisons."""
    findings = report.findings
    if not findings.comparisons:
        return ""
    return _table(
        f"Every comparison with {findings.baseline}",
        ("arm", "weights", "runs", "paired seeds", "probes", *_TESTS, *_SIZES),
        [_comparison(row) for row in findings.comparisons],
    )


def averages_html(report: ForkReport) -> str:
    """One row per arm and kind of averaged weights, compared with its live ones; empty without comparisons."""
    if not report.findings.averages:
        return ""
    return _table(
        "Averaged against live weights of the same runs",
        ("arm", "weights", "runs", *_SIZES),
        [(row.arm, row.weights, str(row.n_runs), *_sizes(row)) for row in report.findings.averages],
    )


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{esc(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<h2 class="quiet">{esc(title)}</h2><div class="scroll" tabindex="0" role="region" aria-label="{esc(title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts_html(report: ForkReport) -> str:
    """Facts about the runs: arms with parameters, notes, and the files of the numbers."""
    facts = [(arm, _arm(facts)) for arm, facts in report.findings.arms.items()]
    rates = report.settings.rates
    facts += [
        ("rate at the fork", f"{rates.base_lr:.3g} (peak of the training {rates.peak_lr:.3g})"),
        ("training text", report.train_corpus),
        ("precision", report.settings.precision),
        *(("note", note) for note in report.notes),
    ]
    rows = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in facts)
    return f'<h2 class="quiet">Arms and settings</h2><dl class="facts">{rows}</dl>'


def _arm(facts: ArmFacts) -> str:
    parameters = [f"{name} {value:g}" for name, value in facts.parameters.items()] or ["no parameters"]
    optimizer = [] if facts.optimizer == "adamw" else [facts.optimizer]
    mean = facts.mean_learning_rate
    level = [] if mean is None else [f"mean rate {mean:.3g}"]
    return "; ".join([", ".join([*parameters, *optimizer]), *level, counted(facts.runs, "run")])


def _comparison(row: ArmComparison) -> Iterable[str]:
    tests = row.tests
    same = row.n_runs - tests.n_distinct_runs
    return (
        row.arm, row.weights,
        f"{row.n_runs} v {row.n_baseline_runs}" + (f" ({same} repeat another)" if same else ""),
        str(row.n_pairs), f"{row.n_probes} {row.probes}",
        p_text(row.over_run.gap_points.p_value), p_text(row.p_holm), p_text(tests.welch.p_value),
        f"{number(tests.naive.t, '.2f')} ({tests.naive.n})", p_text(tests.naive.p_value), p_text(tests.wilcoxon_p),
        f"{tests.wins} of {tests.pairs}", number(tests.effect_size, "+.2f"), number(tests.detectable_points, ".2f"),
        *_sizes(row),
    )  # fmt: skip


def _sizes(row: ArmComparison | AverageComparison) -> Iterable[str]:
    """Gap and losses over the run, then at its end."""
    for part in (row.over_run, row.at_end):
        gap, price = part.gap_points, part.variant_nats
        yield number(gap.estimate, "+.2f")
        yield _range(gap.lower, gap.upper, "+.2f")
        yield _range(gap.lower_by_run, gap.upper_by_run, "+.2f")
        yield number(part.fp32_nats.estimate, "+.4f")
        yield number(price.estimate, "+.4f")
        yield _range(price.lower, price.upper, "+.4f")


def _range(low: float | None, high: float | None, form: str) -> str:
    return "-" if low is None else f"{number(low, form)} to {number(high, form)}"


def p_text(value: float | None) -> str:
    """A p value with four digits, or its upper limit."""
    return "< 0.0001" if value is not None and value < 1e-4 else number(value, ".4f")


def number(value: float | None, form: str) -> str:
    """``value`` in ``form`` with a true minus sign; a dash if it is missing."""
    if value is None or math.isnan(value):
        return "-"
    return format(value, form).replace("-", MINUS)
