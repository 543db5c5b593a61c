"""Data of the fork charts: rates, gaps, wins and differences as plain rows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.statistics.intervals import mean_half_width

Rows = list[dict[str, Any]]

RATE_POINTS = 400
"""Most points of a learning-rate curve."""


def rate_rows(report: ForkReport, arm: str) -> Rows:
    """Learning rate of ``arm`` over the updates."""
    schedule, steps = report.schedule(arm), report.settings.rates.steps
    every = max(1, steps // RATE_POINTS)
    return [{"step": step, "rate": schedule(step)} for step in range(0, steps, every)]


def shade_rows(report: ForkReport, arm: str) -> Rows:
    """Stretches of updates in a shaded phase: ``from``, ``to``, ``phase``."""
    schedule, steps = report.schedule(arm), report.settings.rates.steps
    found: Rows = []
    for phase, group in itertools.groupby(range(steps), key=schedule.phase):
        stretch = list(group)
        if phase in schedule.shaded:
            found.append({"from": stretch[0], "to": stretch[-1] + 1, "phase": phase})
    return found


def gap_rows(table: pl.DataFrame, report: ForkReport, arm: str) -> tuple[Rows, Rows]:
    """Gap of the live weights in percent for every run of ``arm`` (step, run, gap), and mean and 95 % interval over
    runs by step.
    """
    rows = table.filter(
        (pl.col("arm") == arm)
        & (pl.col("weights") == "live")
        & (pl.col("variant") == report.findings.variant)
    ).sort("step")
    runs = [
        {
            "step": row["step"],
            "run": f"seed {row['seed']}",
            "gap": 100 * row["gap"],
            "phase": row["phase_label"],
        }
        for row in rows.iter_rows(named=True)
        if math.isfinite(row["gap"])
    ]
    means: Rows = []
    for (step,), group in rows.group_by("step", maintain_order=True):
        gaps = 100 * group["gap"].to_numpy()
        gaps = gaps[np.isfinite(gaps)]
        if len(gaps) == 0:
            continue
        mean, half = float(gaps.mean()), mean_half_width(gaps)
        means.append({"step": step, "mean": mean, "low": mean - half, "high": mean + half})
    return runs, means


def win_rows(report: ForkReport) -> Rows:
    """One row per ordered pair of arms: wins of ``row`` against ``column``, their significance, and ``text`` = k/n."""
    found = []
    for each in report.findings.wins:
        lead = 2 * each.wins / each.pairs - 1
        side = "wins" if lead > 0 else "loses" if lead < 0 else "even"
        text = f"{each.wins}/{each.pairs}"
        found.append({"row": each.arm, "column": each.other, "side": side, "weight": abs(lead), "text": text})
    return found


def forest_rows(report: ForkReport) -> Rows:
    """One row per comparison with the baseline: the difference in points and its intervals, if any."""
    rows = []
    for each in report.findings.comparisons:
        gap = each.over_run.gap_points
        if not math.isfinite(gap.estimate):
            continue
        bounds = {
            "low": gap.lower_by_run,
            "high": gap.upper_by_run,
            "whole_low": gap.lower,
            "whole_high": gap.upper,
        }
        rows.append(
            {
                "arm": each.arm,
                "weights": each.weights,
                "estimate": gap.estimate,
                **{key: gap.estimate if at is None else at for key, at in bounds.items()},
            }
        )
    return rows
