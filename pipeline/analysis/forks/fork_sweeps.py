"""Trends of the gap over a parameter of a schedule, all other parameters held."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.analysis.forks.fork_findings import SweepTrend
from pipeline.analysis.forks.fork_table import arm_runs, compared_steps, values_at
from pipeline.analysis.statistics.permutation import ARRANGEMENTS, trend_within_seeds

LEAST_VALUES = 3
"""Fewest values of a parameter for a trend."""

TEST = f"permutation of the runs of a seed, {ARRANGEMENTS:,} drawn"


@dataclass(frozen=True)
class SweptArms:
    """Arms of one schedule that differ in one parameter only."""

    parameter: str
    arms: dict[float, str]
    """Value of the parameter -> label of the arm."""
    held: dict[str, float]
    """Their other parameters, among those in which arms of the schedule differ."""


def find_sweeps(table: pl.DataFrame, variant: str, *, seed: int) -> list[SweepTrend]:
    """Find sweeps: rank correlation over runs of the gap with a parameter of three or more values, others fixed.

    Runs of one seed saw the same batches and are not independent, so the p value is from permutations within seeds.
    """
    arms = table.select("arm", "schedule", "parameters", "optimizer").unique(maintain_order=True)
    found = []
    for (schedule, _), group in arms.group_by("schedule", "optimizer", maintain_order=True):
        settings = {
            arm: json.loads(text) for arm, text in zip(group["arm"], group["parameters"], strict=True)
        }
        for sweep in _swept_arms(settings):
            points = [
                (value, gap, own)
                for value, arm in sweep.arms.items()
                for gap, own in _run_means(table, arm, variant)
                if math.isfinite(gap)
            ]
            values = sorted({value for value, *_ in points})
            if len(values) < LEAST_VALUES:
                continue
            x, y, seeds = (np.array(each) for each in zip(*points, strict=True))
            trend = trend_within_seeds(x, y, seeds, seed=seed)
            found.append(
                SweepTrend(
                    schedule=schedule,
                    parameter=sweep.parameter,
                    values=tuple(values),
                    n_runs=len(points),
                    spearman_r=trend.spearman_r,
                    p_value=trend.p_value,
                    test=TEST,
                    held=sweep.held,
                )
            )
    return found


def _swept_arms(settings: Mapping[str, Mapping[str, float]]) -> list[SweptArms]:
    """Every set of arms of one schedule that differ in one parameter only.

    An arm without a parameter equals others without it and is not in a sweep of it. Of equal arms with two names
    the first counts.
    """
    names = sorted({name for values in settings.values() for name in values})
    moving = [name for name in names if len({values.get(name) for values in settings.values()}) > 1]
    found = []
    for name in moving:
        alike: dict[tuple[tuple[str, float], ...], dict[float, str]] = {}
        for arm, values in settings.items():
            if name in values:
                others = tuple(sorted((key, value) for key, value in values.items() if key != name))
                alike.setdefault(others, {}).setdefault(values[name], arm)
        for others, arms in alike.items():
            found.append(SweptArms(name, arms, {key: value for key, value in others if key in moving}))
    return found


def _run_means(table: pl.DataFrame, arm: str, variant: str) -> list[tuple[float, int]]:
    """Mean gap over the compared probes, and seed, of every run."""
    runs = arm_runs(table, arm, variant, "live")
    means: list[float] = values_at(runs.gap, compared_steps(runs)).mean(axis=1).tolist()
    return list(zip(means, runs.seeds, strict=True))
