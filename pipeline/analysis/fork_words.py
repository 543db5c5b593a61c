"""The result of a fork experiment in plain English, made from the numbers of its report and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.train.schedules import ComparedPhase, schedules

ALPHA = 0.05


def sentences(report: Mapping[str, Any]) -> list[str]:
    """In reading order: each arm against the baseline, what averaging does, sweeps, what diverged.

    Numbers in parentheses after a number are its 95 % interval over runs.
    """
    out = []
    if report["variant"] is None:
        return ["Only fp32 was measured: there is no gap to compare."]
    live = [row for row in report["comparisons"] if row["weights"] == "live"]
    if not live:
        out.append(f"There is one arm, {report['baseline']}: nothing to compare it with.")
    out += [_comparison(row, _short(report["variant"]), _compared(report, row)) for row in live]
    averages = [row for row in report["averages"] if row["arm"] == report["baseline"]]
    out += [_average(row, _short(report["variant"])) for row in averages]
    out += [_sweep(row) for row in report["sweeps"]]
    if report["diverged"]:
        names = ", ".join(report["diverged"])
        out.append(
            f"{len(report['diverged'])} runs diverged ({names}): they lose every pair and are in no mean."
        )
    return out


def _compared(report: Mapping[str, Any], row: Mapping[str, Any]) -> ComparedPhase | None:
    """The phase of the arm's schedule that is compared."""
    return schedules.find(report["arms"][row["arm"]]["schedule"]).compared


def _comparison(row: Mapping[str, Any], variant: str, compared: ComparedPhase | None) -> str:
    difference = row["difference"]
    estimate = difference["estimate"]
    if estimate is None or math.isnan(estimate):
        return f"{row['arm']}: no run without divergence to compare with {row['baseline']}."
    where = f"in its {compared.adjective} phases" if compared else "after the start"
    wins = f"it wins {row['wins']} of {row['pairs']} pairs of runs{_repeats(row)}"
    if difference["p_value"] is None:
        return (
            f"{row['arm']}: {variant} gap {estimate:+.2f} points against {row['baseline']} {where} ({wins}); with "
            f"{row['n_runs']} run against {row['n_baseline_runs']} the spread between runs is unknown, so nothing "
            "can be claimed."
        )
    interval = f"{_interval(difference)}; Holm-adjusted {_p(row['p_holm'])}"
    against = f"{estimate:+.2f} points {where}"
    if row["p_holm"] is not None and row["p_holm"] < ALPHA:
        claim = "lowers" if estimate < 0 else "raises"
        by = f"{abs(estimate):.2f} points against {row['baseline']} {where}"
        head = f"{row['arm']} {claim} the {variant} gap by {by}"
        tail = ""
    else:
        head = f"{row['arm']} does not differ detectably from {row['baseline']}: {variant} gap {against}"
        tail = (
            ""
            if row["detectable"] is None
            else f" The design could have found {row['detectable']:.2f} points."
        )
    return f"{head} ({interval}; {wins}). {_losses(row, variant)} {_end(row, variant, compared)}{_naive(row)}{tail}"


def _repeats(row: Mapping[str, Any]) -> str:
    """That runs without chance in them are one run."""
    same = row["n_runs"] - row["n_distinct_runs"]
    return f": {same} of its {row['n_runs']} runs repeat another number for number" if same else ""


def _losses(row: Mapping[str, Any], variant: str) -> str:
    """What the arm costs in full precision, and what of the model that is deployed: a small gap alone is no gain."""
    return f"Over the run the FP32 price is {_nats(row, 'fp32')} and that of {variant} itself {_nats(row, 'variant')}."


def _end(row: Mapping[str, Any], variant: str, compared: ComparedPhase | None = None) -> str:
    """The same at the last compared probe: whoever deploys a model deploys that one."""
    end = row["at_end"]
    name = f"At its last {compared.phase} probe" if compared else "At its end"
    gap = f"{end['difference']['estimate']:+.2f} points{_bounds(end['difference'], '+.2f')}"
    price = f"{_nats(end, 'variant')}{_bounds(end['variant_price_nats'], '+.3f')}"
    return f"{name} (update {end['step']:,}): gap {gap}; FP32 price {_nats(end, 'fp32')}, of {variant} itself {price}."


def _nats(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_price_nats']['estimate']:+.3f} nats"


def _bounds(estimate: Mapping[str, Any], form: str) -> str:
    return "" if estimate["lower"] is None else f" ({estimate['lower']:{form}} to {estimate['upper']:{form}})"


def _naive(row: Mapping[str, Any]) -> str:
    """What counting probes instead of runs would have claimed, where it claims more."""
    naive = row["naive"]["p_value"]
    if naive is None or naive >= ALPHA or (row["p_holm"] is not None and row["p_holm"] < ALPHA):
        return ""
    return (
        f" A t test that takes the {row['naive']['n']} pairs of probes for independent would have claimed a "
        f"difference (t = {row['naive']['t']:.2f}, {_p(naive)})."
    )


def _average(row: Mapping[str, Any], variant: str) -> str:
    name = {
        "ema": "The moving average of the weights",
        "lawa": "The mean of the last probes' weights (LAWA)",
    }[row["weights"]]
    difference = row["difference"]
    if difference["estimate"] is None or math.isnan(difference["estimate"]):
        return f"{name}: no run to compare."
    interval = "one run, no interval" if difference["lower"] is None else _interval(difference)
    return (
        f"{name} along {row['arm']} changes the {variant} gap by {difference['estimate']:+.2f} points ({interval}). "
        f"{_losses(row, variant)} {_end(row, variant)}"
    )


def _interval(difference: Mapping[str, Any]) -> str:
    """By runs, as the claim is; and with what other evaluation text would change."""
    whole = ""
    if difference["lower_with_text"] is not None:
        low, high = difference["lower_with_text"], difference["upper_with_text"]
        whole = f", {low:+.2f} to {high:+.2f} with the evaluation text"
    return f"95% interval {difference['lower']:+.2f} to {difference['upper']:+.2f} by run{whole}"


def _sweep(row: Mapping[str, Any]) -> str:
    values = ", ".join(f"{value:g}" for value in row["values"])
    held = ", ".join(f"{name} {value:g}" for name, value in row["held"].items())
    swept = f"{row['parameter']} of {row['schedule']}" + (f" with {held}" if held else "")
    head = f"Over {swept} ({values}; {row['n_runs']} runs) the gap"
    if row["p_value"] is None or math.isnan(row["p_value"]):
        return f"{head} does not vary."
    trend = (
        "shows no detectable trend"
        if row["p_value"] >= ALPHA
        else "rises"
        if row["spearman_r"] > 0
        else "falls"
    )
    return f"{head} {trend} (Spearman r = {row['spearman_r']:.2f}, {_p(row['p_value'])} by permutation within seeds)."


def _p(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "p unknown"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}" if value < 0.01 else f"p = {value:.3f}"


def _short(variant: str) -> str:
    return {"int4-g128-asym": "INT4", "int8-channel-sym": "INT8"}.get(variant, variant)
