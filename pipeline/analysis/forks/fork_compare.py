"""The comparisons of a fork experiment: each arm with the baseline, arms pair by pair, averaged with live weights.

Gap, loss in full precision and loss of the quantized model are each compared over the run, on means over its
compared probes, and at its end, on the last of these, because the end is what is deployed. The claim, with its
corrected p value, is on the gap over the run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.analysis.forks.fork_findings import (
    ArmComparison,
    AverageComparison,
    Differences,
    RunTests,
    WinCount,
)
from pipeline.analysis.forks.fork_table import (
    ArmRuns,
    arm_runs,
    at_end,
    compared_steps,
    leave_out_text,
    started,
    values_at,
)
from pipeline.analysis.statistics.bootstrap import jackknife_se
from pipeline.analysis.statistics.contrasts import (
    Estimate,
    TextError,
    distinct_runs,
    hedges_g,
    holm,
    mean_variance,
    naive_t,
    paired_estimate,
    welch_estimate,
    wins,
)
from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.intervals import LEVEL, smallest_found
from pipeline.analysis.statistics.permutation import rank_sum_p

POINTS = 100.0
"""Gaps are fractions in the tables and percentage points in comparisons."""
N_QUANTITIES = 3
"""Gap in points, losses of full precision and of the quantized model in nats: the order of every array here."""

Steps = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Window:
    """The differences of one arm from the baseline, on means over some probes."""

    step: int | None
    ours: FloatArray
    """(quantities, runs)"""
    theirs: FloatArray
    paired: FloatArray | None
    """(quantities, seeds): differences of the runs of one seed; None with fewer than two seeds in common."""
    text: list[TextError | None]
    """Text error by quantity."""

    def estimates(self, pooled: Sequence[float | None]) -> Differences:
        if self.paired is None:
            found = [
                welch_estimate(*each, text=text)
                for *each, text in zip(self.ours, self.theirs, self.text, strict=True)
            ]
        else:
            found = [
                paired_estimate(each, pooled_variance=variance, text=text)
                for each, variance, text in zip(self.paired, pooled, self.text, strict=True)
            ]
        return Differences(self.step, *found)


def compare_with_baseline(
    table: pl.DataFrame, baseline: str, arms: Sequence[str], variant: str, weights: str, *, looks: int = 1
) -> list[ArmComparison]:
    """Compare each of ``arms`` with the baseline, which is not among them, corrected for multiple comparisons.

    ``looks``: number of looks at the data.
    """
    reference = arm_runs(table, baseline, variant, weights)
    every = [arm_runs(table, arm, variant, weights) for arm in arms]
    chosen = [compared_steps(runs) for runs in every]
    over_run = _differences(every, reference, chosen)
    ends = _differences(every, reference, [at_end(steps) for steps in chosen], ends=True)
    adjusted = holm([each.gap_points.p_value for each, _ in over_run], looks=looks)
    return [
        ArmComparison(
            arm=runs.label,
            baseline=baseline,
            weights=weights,
            probes=runs.compared.phase if runs.compared else "all",
            n_probes=int(steps.sum()),
            n_runs=len(runs.seeds),
            n_baseline_runs=len(reference.seeds),
            n_pairs=n_pairs,
            over_run=found,
            at_end=end,
            tests=_tests(runs, reference, steps, found.gap_points, alpha=(1 - LEVEL) / len(arms) / looks),
            p_holm=p_holm,
        )
        for runs, steps, (found, n_pairs), (end, _), p_holm in zip(
            every, chosen, over_run, ends, adjusted, strict=True
        )
    ]


def count_wins(table: pl.DataFrame, arms: Sequence[str], variant: str) -> list[WinCount]:
    """Count the pairs of runs in which the first of two arms has the lower gap, on the compared probes of both.

    Runs that repeat another are excluded. Two arms without a common probe (OLI at different periods) are left out.
    """
    runs = {arm: arm_runs(table, arm, variant, "live") for arm in arms}
    found = []
    for arm, other in itertools.permutations(arms, 2):
        chosen = compared_steps(runs[arm]) & compared_steps(runs[other])
        if not chosen.any():
            continue
        ours, theirs = (distinct_runs(runs[each].gap[:, chosen]) for each in (arm, other))
        found.append(WinCount(arm, other, wins(ours, theirs), len(ours) * len(theirs)))
    return found


def compare_average(table: pl.DataFrame, arm: str, variant: str, weights: str) -> AverageComparison:
    """Compare averaged with live weights of the same runs, at the probes after the start: one difference per run."""
    live, mean = (arm_runs(table, arm, variant, each) for each in ("live", weights))
    chosen = started(live)
    over_run, ended = (
        _window(mean, live, steps, ends=ends).estimates([None] * N_QUANTITIES)
        for steps, ends in ((chosen, False), (at_end(chosen), True))
    )
    return AverageComparison(arm, weights, len(live.seeds), over_run, ended)


def _differences(
    every: Sequence[ArmRuns], reference: ArmRuns, chosen: Sequence[Steps], *, ends: bool = False
) -> list[tuple[Differences, int]]:
    """Differences and number of paired seeds of every arm; the variances of the arms are pooled."""
    windows = [_window(runs, reference, steps, ends=ends) for runs, steps in zip(every, chosen, strict=True)]
    paired = [each.paired for each in windows if each.paired is not None]
    pooled = [mean_variance([each[index] for each in paired]) for index in range(N_QUANTITIES)]
    return [(each.estimates(pooled), 0 if each.paired is None else each.paired.shape[1]) for each in windows]


def _window(runs: ArmRuns, reference: ArmRuns, steps: Steps, *, ends: bool) -> _Window:
    ours, theirs = (_run_means(each, steps) for each in (runs, reference))
    return _Window(
        step=int(np.array(runs.steps)[steps][0]) if ends and steps.any() else None,
        ours=ours,
        theirs=theirs,
        paired=_paired(runs, reference, steps),
        text=_text_errors(runs, reference, steps),
    )


def _paired(runs: ArmRuns, reference: ArmRuns, steps: Steps) -> FloatArray | None:
    """Differences by seed, (quantities, seeds), for seeds with two finite runs, without repeated pairs.

    If all pairs are equal, as for two arms that do not train, each counts, with scatter zero.
    """
    common = [seed for seed in runs.seeds if seed in reference.seeds]
    rows = [[each.seeds.index(seed) for seed in common] for each in (runs, reference)]
    ours, theirs = (
        _run_means(each, steps)[:, own] for each, own in zip((runs, reference), rows, strict=True)
    )
    finite = np.isfinite(ours - theirs).all(axis=0)
    if finite.sum() < 2:
        return None
    pairs = np.concatenate([ours, theirs])[:, finite].T
    distinct = distinct_runs(pairs)
    kept = (pairs if len(distinct) == 1 else distinct).T
    return kept[:N_QUANTITIES] - kept[N_QUANTITIES:]


def _tests(runs: ArmRuns, reference: ArmRuns, steps: Steps, claim: Estimate, *, alpha: float) -> RunTests:
    treated, baseline = (values_at(each.gap, steps) * POINTS for each in (runs, reference))
    ours, theirs = distinct_runs(treated), distinct_runs(baseline)
    a, b = (each.mean(axis=1)[np.isfinite(each.mean(axis=1))] for each in (ours, theirs))
    detectable = None
    if claim.df is not None and claim.runs_se and all(len(x) > 1 and np.ptp(x) > 0 for x in (a, b)):
        detectable = smallest_found(math.hypot(claim.runs_se, claim.text_se or 0.0), claim.df, alpha=alpha)
    return RunTests(
        welch=welch_estimate(_unrepeated(treated, ours), _unrepeated(baseline, theirs)),
        naive=naive_t(treated, baseline),
        wilcoxon_p=rank_sum_p(a, b),
        wilcoxon_p_floor=min(1.0, 2 / math.comb(max(len(a) + len(b), 2), max(len(a), 1))),
        wins=wins(ours, theirs),
        pairs=len(ours) * len(theirs),
        n_distinct_runs=len(ours),
        n_distinct_baseline_runs=len(theirs),
        effect_size=hedges_g(a, b),
        detectable_points=detectable,
    )


def _unrepeated(runs: FloatArray, distinct: FloatArray) -> FloatArray:
    """Run means without repeated runs. An arm whose runs are all equal keeps every copy, with scatter zero."""
    means: FloatArray = (runs if len(distinct) == 1 else distinct).mean(axis=1)
    return means


def _run_means(runs: ArmRuns, steps: Steps) -> FloatArray:
    """(quantities, runs): means over ``steps``."""
    gap, *losses = runs.values
    return np.array([values_at(each, steps).mean(axis=1) for each in (gap * POINTS, *losses)])


def _text_errors(ours: ArmRuns, theirs: ArmRuns, steps: Steps) -> list[TextError | None]:
    """Error of each quantity from the evaluation text: a jackknife over its batches.

    Both arms leave out the same batches, so easy or hard text cancels.
    """
    without = [
        _mean_of_finite(_run_means(own, steps)) - _mean_of_finite(_run_means(other, steps))
        for own, other in zip(leave_out_text(ours), leave_out_text(theirs), strict=True)
    ]
    if not without:
        return [None] * N_QUANTITIES
    errors, df = jackknife_se(np.stack(without).T).tolist(), len(without) - 1
    return [TextError(error, df) if math.isfinite(error) else None for error in errors]


def _mean_of_finite(values: FloatArray) -> FloatArray:
    """(quantities, runs) -> (quantities,): mean without diverged runs; NaN if all diverged."""
    kept = values[:, np.isfinite(values).all(axis=0)]
    return kept.mean(axis=1) if kept.size else np.full(len(values), np.nan)
