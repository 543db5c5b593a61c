"""The numbers of a fork experiment as HTML tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.report.text import MINUS, esc

_HEADS = (
    "arm", "weights", "runs", "probes", "difference, points", "95% interval", "p", "p (Holm)", "naive t (n)", "naive p",
    "rank-sum p", "wins", "effect size g", "detectable, points", "FP32 price, nats",
    "quantized price, nats",
)  # fmt: skip


def comparison_html(report: Mapping[str, Any]) -> str:
    """One row per comparison with the baseline; empty where nothing is compared."""
    if not report["comparisons"]:
        return ""
    head = "".join(f"<th>{esc(each)}</th>" for each in _HEADS)
    body = "".join(_comparison(row) for row in report["comparisons"])
    return (
        f'<h2 class="quiet">Every comparison with {esc(report["baseline"])}</h2><div class="scroll" tabindex="0" '
        f'role="region" aria-label="Comparisons"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
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


def _comparison(row: Mapping[str, Any]) -> str:
    difference, naive = row["difference"], row["naive"]
    interval = (
        "-"
        if difference["lower"] is None
        else f"{number(difference['lower'], '+.2f')} to {number(difference['upper'], '+.2f')}"
    )
    cells = (
        row["arm"], row["weights"], f"{row['n_runs']} v {row['n_baseline_runs']}", f"{row['n_probes']} {row['probes']}",
        number(difference["estimate"], "+.2f"), interval, p_text(difference["p_value"]), p_text(row["p_holm"]),
        f"{number(naive['t'], '.2f')} ({naive['n']})", p_text(naive["p_value"]), p_text(row["wilcoxon_p"]),
        f"{row['wins']} of {row['pairs']}", number(row["effect_size"], "+.2f"), number(row["detectable"], ".2f"),
        number(row["fp32_price_nats"]["estimate"], "+.4f"), number(row["variant_price_nats"]["estimate"], "+.4f"),
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in cells) + "</tr>"


def p_text(value: float | None) -> str:
    """A p value with four digits, or how small it is."""
    return "< 0.0001" if value is not None and value < 1e-4 else number(value, ".4f")


def number(value: float | None, form: str) -> str:
    """``value`` in ``form`` with a true minus sign; a dash where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return format(value, form).replace("-", MINUS)
