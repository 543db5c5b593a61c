"""Compare two arms of an experiment: the unit of observation, and what the intervals count.

Runs of one seed see the same training text in the same order, whatever their arm, so losses of two arms rise and fall
together (over seeds their correlation is 0.85 in the median at the end of the reference's forks). An arm is therefore
compared seed by seed: one difference per seed, Student's t. If several arms are compared with one baseline, an arm
may scatter little by luck: its variance is therefore its own, but at least half way to the mean variance of all
arms, with 1.5 (n - 1) degrees of freedom. This was chosen among some eleven methods by simulation; on newly
simulated experiments (``python -m tests.analysis.statistics.fork_rates``, with the table: 3 and 5 seeds, correlations
of -0.3, 0, 0.5 and 0.9 between arms) it covers the truth in 0.96 to 0.99 of cases on average over arms, and in 0.91 or
more for every single one.

Every interval and p value counts two sources of variance: the order of the training text, over seeds, and the
evaluation text, by a jackknife over its batches. Their variances add (with Satterthwaite's degrees of freedom).
Two seeds do not tell their variance well enough for that (two alone covered 0.88): then an interval is at least that
over seeds alone. With more it may be a little narrower than that, because the sum of the variances is better known
than the seeds' own; it covers 0.92 or more.
Their common part is counted in both, so the intervals are rather too wide. All is conditional on one starting
checkpoint: other orders of the text, not other models. Probes of one run share its weights and are never
observations.

A run with exactly the numbers of another does not count again: it is in no pair, rank or spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.intervals import student_half_width, student_p_value

POOLED_DF = 1.5
"""Factor on n - 1 degrees of freedom if the variance of other arms is a lower bound."""
FEWEST_DF = 2.0
"""With fewer degrees of freedom over runs, as of two seeds, the text cannot make an interval narrower."""


@dataclass(frozen=True)
class Estimate:
    """A difference, with its 95 % interval over data orders and evaluation text; None with too few runs."""

    estimate: float
    lower: float | None = None
    upper: float | None = None
    p_value: float | None = None
    """Two-sided."""
    runs_se: float | None = None
    """Standard error over runs."""
    text_se: float | None = None
    """Standard error over the evaluation text; None for one batch."""
    df: float | None = None
    """Degrees of freedom of both together, or of the runs alone where theirs is the interval."""
    lower_by_run: float | None = None
    """Interval over data orders only, for this text."""
    upper_by_run: float | None = None


@dataclass(frozen=True)
class TextError:
    """Error of a difference from the evaluation text."""

    se: float
    df: int


@dataclass(frozen=True)
class NaiveTest:
    """Student's t over matched probes, each treated as one observation."""

    t: float | None
    n: int
    """Pairs of probes."""
    p_value: float | None


def paired_estimate(
    differences: FloatArray, *, pooled_variance: float | None = None, text: TextError | None = None
) -> Estimate:
    """Estimate from one difference per seed, (n,); non-finite ones are left out.

    ``pooled_variance``: mean variance of such differences over the compared arms.
    """
    kept = differences[np.isfinite(differences)]
    if len(kept) < 2:
        return Estimate(float(kept.mean()) if len(kept) else math.nan)
    own, df = float(kept.var(ddof=1)), float(len(kept) - 1)
    if pooled_variance is None:
        return _estimate(float(kept.mean()), own / len(kept), df, text)
    variance = max(own, (own + pooled_variance) / 2)
    return _estimate(float(kept.mean()), variance / len(kept), POOLED_DF * df, text)


def welch_estimate(a: FloatArray, b: FloatArray, *, text: TextError | None = None) -> Estimate:
    """Difference of two groups of runs without common seeds, by Welch's t test; non-finite values are left out."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if len(a) == 0 or len(b) == 0:
        return Estimate(math.nan)
    difference = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Estimate(difference)
    parts = float(a.var(ddof=1) / len(a)), float(b.var(ddof=1) / len(b))
    spread = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
    return _estimate(difference, sum(parts), sum(parts) ** 2 / spread if spread > 0 else 1.0, text)


def mean_variance(every: Sequence[FloatArray]) -> float | None:
    """Mean over arms of the variance of their differences; None with fewer than two arms of two differences."""
    kept = [each[np.isfinite(each)] for each in every]
    variances = [float(each.var(ddof=1)) for each in kept if len(each) > 1]
    return float(np.mean(variances)) if len(variances) > 1 else None


def distinct_runs(runs: FloatArray) -> FloatArray:
    """``runs`` (runs, probes) without exact repeats of earlier ones; a NaN equals nothing."""
    kept: list[FloatArray] = []
    for run in runs:
        if not any(np.array_equal(run, other) for other in kept):
            kept.append(run)
    return np.array(kept).reshape(len(kept), runs.shape[1])


def wins(treated: FloatArray, baseline: FloatArray) -> int:
    """Number of pairs of one run of each, (runs, probes), in which the treated has the lower mean; a run with NaN
    loses.
    """
    ours, theirs = _losing(treated.mean(axis=1)), _losing(baseline.mean(axis=1))
    return int(np.sum(ours[:, None] < theirs[None, :]))


def naive_t(treated: FloatArray, baseline: FloatArray) -> NaiveTest:
    """Paired t over all probes of all runs, run i with run i; runs beyond the shorter group are left out."""
    n_runs = min(len(treated), len(baseline))
    differences = (treated[:n_runs] - baseline[:n_runs]).ravel()
    differences = differences[np.isfinite(differences)]
    n = len(differences)
    if n < 2 or np.ptp(differences) == 0:
        return NaiveTest(None, n, None)
    t = float(differences.mean() / (differences.std(ddof=1) / math.sqrt(n)))
    return NaiveTest(t, n, student_p_value(t, n - 1))


def hedges_g(a: FloatArray, b: FloatArray) -> float | None:
    """Difference of run means in standard deviations between runs; None if an arm has no spread.

    Source: Hedges 1981, with the approximate correction 1 - 3/(4 df - 1).
    """
    df = len(a) + len(b) - 2
    if len(a) < 2 or len(b) < 2:
        return None
    squares = float(((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum())
    if squares == 0:
        return None
    return float((a.mean() - b.mean()) / math.sqrt(squares / df) * (1 - 3 / (4 * df - 1)))


def holm(p_values: list[float | None], *, looks: int = 1) -> list[float | None]:
    """Holm's step-down adjustment of the values that are not None, each first multiplied by ``looks``.

    ``looks``: number of looks at the growing data (Bonferroni). Source: Holm 1979.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, index) in enumerate(order):
        worst = max(worst, min(1.0, p * looks * (len(order) - rank)))
        adjusted[index] = worst
    return adjusted


def _losing(means: FloatArray) -> FloatArray:
    return np.where(np.isfinite(means), means, np.inf)


def _estimate(mean: float, variance: float, df: float, text: TextError | None) -> Estimate:
    """From the variance of the mean over runs; without any spread the p value is 0 or 1."""
    # SciPy gives the distribution and not the test: its tests know neither a pooled variance nor the text's error, and
    # warn of equal runs, which are valid here
    runs_se, runs_df = math.sqrt(variance), df
    by_run = student_half_width(runs_se, df)
    known = text if text is not None and math.isfinite(text.se) else None
    text_variance = 0.0 if known is None else known.se**2
    total = variance + text_variance
    se = math.sqrt(total)
    if known is not None and total > 0:
        df = total**2 / (variance**2 / df + text_variance**2 / known.df)
    half = student_half_width(se, df)
    if runs_df < FEWEST_DF and half < by_run:
        se, df, half = runs_se, runs_df, by_run
    p_value = student_p_value(mean / se, df) if se > 0 else float(mean == 0)
    return Estimate(
        estimate=mean,
        lower=mean - half,
        upper=mean + half,
        p_value=p_value,
        runs_se=runs_se,
        text_se=None if known is None else known.se,
        df=df,
        lower_by_run=mean - by_run,
        upper_by_run=mean + by_run,
    )
