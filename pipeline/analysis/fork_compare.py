"""The comparisons of a fork experiment: each arm with the baseline, arms pair by pair, averaged with live weights.

Gap, loss in full precision and loss of the quantized model are each compared over the run, on means over its compared
probes, and at its end, on the last of these alone: the end is what is deployed. The claim, with its corrected p value,
is on the gap over the run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.analysis.contrasts import (
    Estimate,
    contrast,
    distinct_runs,
    holm,
    paired_estimate,
    welch_estimate,
    wins,
    with_text,
)
from pipeline.analysis.curves import FloatArray
from pipeline.analysis.fork_table import (
    ArmRuns,
    arm_runs,
    at_end,
    compared_steps,
    leave_out_text,
    started,
    values_at,
)

POINTS = 100.0
"""Gaps are fractions in the tables and percentage points in comparisons."""

QUANTITIES = ("difference", "fp32_price_nats", "variant_price_nats")
"""Keys of what is compared: the gap in points, the losses of full precision and of the quantized model in nats."""

Steps = NDArray[np.bool_]


def compare_with_baseline(
    table: pl.DataFrame, baseline: str, arms: Sequence[str], variant: str, weights: str, *, seed: int
) -> list[dict[str, Any]]:
    """Each of ``arms`` against the baseline, which is not among them, corrected for as many comparisons."""
    reference = arm_runs(table, baseline, variant, weights)
    rows = []
    for arm in arms:
        runs = arm_runs(table, arm, variant, weights)
        chosen = compared_steps(runs)
        last = at_end(chosen)
        over_run, ended = (
            _against(runs, reference, steps, claims=len(arms), seed=seed) for steps in (chosen, last)
        )
        rows.append(
            {
                "arm": arm,
                "baseline": baseline,
                "weights": weights,
                "probes": runs.compared.phase if runs.compared else "all",
                "n_probes": int(chosen.sum()),
                "n_runs": len(runs.seeds),
                "n_baseline_runs": len(reference.seeds),
                **over_run,
                "at_end": {"step": _step(runs, last), **{key: ended[key] for key in QUANTITIES}},
            }
        )
    adjusted = holm([row["difference"]["p_value"] for row in rows])
    return [{**row, "p_holm": p_value} for row, p_value in zip(rows, adjusted, strict=True)]


def count_wins(table: pl.DataFrame, arms: Sequence[str], variant: str) -> list[dict[str, Any]]:
    """In how many pairs of runs the first of two arms has the lower gap, on the probes that are compared of both.

    Runs that repeat another are in no pair. Two arms without a common probe (OLI at different periods) are left out.
    """
    runs = {arm: arm_runs(table, arm, variant, "live") for arm in arms}
    found = []
    for arm, other in itertools.permutations(arms, 2):
        chosen = compared_steps(runs[arm]) & compared_steps(runs[other])
        if not chosen.any():
            continue
        ours, theirs = (distinct_runs(runs[each].gap[:, chosen]) for each in (arm, other))
        pairs = len(ours) * len(theirs)
        found.append({"arm": arm, "other": other, "wins": wins(ours, theirs), "pairs": pairs})
    return found


def compare_average(table: pl.DataFrame, arm: str, variant: str, weights: str) -> dict[str, Any]:
    """Averaged against live weights of the same runs, at the probes after the start: one difference per run."""
    live, mean = (arm_runs(table, arm, variant, each) for each in ("live", weights))
    chosen = started(live)
    last = at_end(chosen)
    over_run, ended = (
        _with_text(
            [paired_estimate(each) for each in _run_means(mean, steps) - _run_means(live, steps)],
            (mean, live),
            steps,
        )
        for steps in (chosen, last)
    )
    return {
        "arm": arm,
        "weights": weights,
        "n_runs": len(live.seeds),
        **over_run,
        "at_end": {"step": _step(live, last), **ended},
    }


def _against(runs: ArmRuns, reference: ArmRuns, steps: Steps, *, claims: int, seed: int) -> dict[str, Any]:
    """The contrast of the gap, and the differences of the losses, on means over ``steps``."""
    treated, baseline = (values_at(each.gap, steps) * POINTS for each in (runs, reference))
    gap = contrast(treated, baseline, claims=claims, seed=seed)
    ours, theirs = (_run_means(each, steps) for each in (runs, reference))
    losses = [welch_estimate(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True)]
    return {**dataclasses.asdict(gap), **_with_text([gap.difference, *losses], (runs, reference), steps)}


def _run_means(runs: ArmRuns, steps: Steps) -> FloatArray:
    """(quantities, runs): means over ``steps``, in the order of :data:`QUANTITIES`."""
    whole = (runs.gap * POINTS, runs.fp32_nll_nats, runs.variant_nll_nats)
    return np.array([values_at(each, steps).mean(axis=1) for each in whole])


def _with_text(
    estimates: Sequence[Estimate], pair: tuple[ArmRuns, ArmRuns], steps: Steps
) -> dict[str, dict[str, Any]]:
    """Estimates of :data:`QUANTITIES` with the error that the evaluation text leaves: a jackknife over its batches.

    Both of ``pair`` go without the same batches each time, so what is easy or hard for both cancels.
    """
    without = [
        _mean_of_finite(_run_means(ours, steps)) - _mean_of_finite(_run_means(theirs, steps))
        for ours, theirs in zip(*(leave_out_text(runs) for runs in pair), strict=True)
    ]
    n = len(without)
    errors = [None] * len(estimates) if n == 0 else np.sqrt((n - 1) * np.var(without, axis=0)).tolist()
    return {
        key: dataclasses.asdict(with_text(estimate, error, n - 1))
        for key, estimate, error in zip(QUANTITIES, estimates, errors, strict=True)
    }


def _mean_of_finite(values: FloatArray) -> FloatArray:
    """(quantities, runs) -> (quantities,): without diverged runs; NaN where there is no other."""
    kept = values[:, np.isfinite(values).all(axis=0)]
    return kept.mean(axis=1) if kept.size else np.full(len(values), np.nan)


def _step(runs: ArmRuns, last: Steps) -> int | None:
    """None where no probe is compared: every run diverged before the first."""
    return int(np.array(runs.steps)[last][0]) if last.any() else None
