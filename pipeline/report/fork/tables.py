"""The numbers of a fork experiment as HTML tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report.text import MINUS, esc

_SIZES = (
    "difference, points", "95% interval by run", "with the text", "FP32 price, nats", "quantized price, nats",
    "at its end: points", "95% interval by run", "with the text", "FP32 price, nats", "quantized price, nats",
)  # fmt: skip
_TESTS = (
    "p", "p (Holm)", "naive t (n)", "naive p", "rank-sum p", "wins", "effect size g", "detectable, points",
)  # fmt: skip


def comparison_html(report: Mapping[str, Any]) -> str:
    """One row per comparison with the baseline; empty where nothing is compared."""
    if not report["comparisons"]:
        return ""
    return _table(
        f"Every comparison with {report['baseline']}",
        ("arm", "weights", "runs", "probes", *_TESTS, *_SIZES),
        [_comparison(row) for row in report["comparisons"]],
    )


def averages_html(report: Mapping[str, Any]) -> str:
    """One row per arm and kind of averaged weights, against its live ones; empty where nothing is compared."""
    if not report["averages"]:
        return ""
    return _table(
        "Averaged against live weights of the same runs",
        ("arm", "weights", "runs", *_SIZES),
        [(row["arm"], row["weights"], str(row["n_runs"]), *_sizes(row)) for row in report["averages"]],
    )


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{esc(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<h2 class="quiet">{esc(title)}</h2><div class="scroll" tabindex="0" role="region" aria-label="{esc(title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts_html(report: Mapping[str, Any]) -> str:
    """What the runs were: arms with their parameters, notes, and where each number is."""
    facts = [(arm, _arm(facts)) for arm, facts in report["arms"].items()]
    rates = report["config"]["rates"]
    facts += [
        ("rate at the fork", f"{rates['base_lr']:.3g} (peak of the training {rates['peak_lr']:.3g})"),
        ("training text", str(report["train_corpus"])),
        ("precision", str(report["config"]["precision"])),
        *(("note", note) for note in report["notes"]),
    ]
    rows = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in facts)
    return f'<h2 class="quiet">Arms and settings</h2><dl class="facts">{rows}</dl>'


def _arm(facts: Mapping[str, Any]) -> str:
    parameters = [f"{name} {value:g}" for name, value in facts["parameters"].items()] or ["no parameters"]
    optimizer = [] if facts["optimizer"] == "adamw" else [facts["optimizer"]]
    mean = facts.get("mean_learning_rate")
    level = [] if mean is None else [f"mean rate {mean:.3g}"]
    return "; ".join([", ".join([*parameters, *optimizer]), *level, f"{facts['runs']} runs"])


def _comparison(row: Mapping[str, Any]) -> Iterable[str]:
    naive = row["naive"]
    same = row["n_runs"] - row["n_distinct_runs"]
    return (
        row["arm"], row["weights"],
        f"{row['n_runs']} v {row['n_baseline_runs']}" + (f" ({same} repeat another)" if same else ""),
        f"{row['n_probes']} {row['probes']}",
        p_text(row["difference"]["p_value"]), p_text(row["p_holm"]),
        f"{number(naive['t'], '.2f')} ({naive['n']})", p_text(naive["p_value"]), p_text(row["wilcoxon_p"]),
        f"{row['wins']} of {row['pairs']}", number(row["effect_size"], "+.2f"), number(row["detectable"], ".2f"),
        *_sizes(row),
    )  # fmt: skip


def _sizes(row: Mapping[str, Any]) -> Iterable[str]:
    """Gap and losses over the run, then at its end."""
    for part in (row, row["at_end"]):
        gap = part["difference"]
        yield number(gap["estimate"], "+.2f")
        for name in ("", "_with_text"):
            low, high = gap[f"lower{name}"], gap[f"upper{name}"]
            yield "-" if low is None else f"{number(low, '+.2f')} to {number(high, '+.2f')}"
        for name in ("fp32", "variant"):
            yield number(part[f"{name}_price_nats"]["estimate"], "+.4f")


def p_text(value: float | None) -> str:
    """A p value with four digits, or how small it is."""
    return "< 0.0001" if value is not None and value < 1e-4 else number(value, ".4f")


def number(value: float | None, form: str) -> str:
    """``value`` in ``form`` with a true minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return format(value, form).replace("-", MINUS)
