"""What a t test with given errors can find: the smallest difference found four times out of five, and the power."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from pipeline.analysis.curves import FloatArray

POWER = 0.8
"""With which the smallest difference would be found."""
DRAWS = 2000
"""Of the spreads that the test would see."""


def smallest_found(se: float, df: float, *, alpha: float = 0.05) -> float:
    """Smallest true difference that a two-sided t test claims with :data:`POWER` at level ``alpha``.

    se: standard error of the difference, with ``df`` degrees of freedom; > 0. The tail on the other side is far below
    the digits that matter.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def excess(shift: float) -> float:
        return float(stats.nct.sf(critical, df, shift)) - POWER

    return se * float(optimize.brentq(excess, 0.0, 2 * critical + 10))


def power_of(difference: float, se: float, df: float, *, alpha: float = 0.05) -> float:
    """Probability that a two-sided t test claims a true ``difference`` in its own direction; NaN where se is 0."""
    if se == 0:
        return math.nan
    return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, df), df, difference / se))


def detectable_difference(
    a: FloatArray, b: FloatArray, *, claims: int = 1, alpha: float = 0.05
) -> float | None:
    """Smallest true difference that is claimed with :data:`POWER` at Holm's first step among ``claims`` comparisons.

    Claimed is what Welch's test puts under ``alpha / claims``; of differences so clear the bootstrap beside it takes
    none back. The spread of the run means ``a`` and ``b`` is taken for the true one. The test knows only that of its
    own few runs, and with it its degrees of freedom, so both are drawn, as chi-square by a fixed generator, and the
    power is the mean over them. (With the degrees of freedom of the true spreads, three runs against three would find a
    difference of the size told three times out of five.)

    None with fewer than two runs on a side, and where the runs of a side do not scatter.
    """
    if len(a) < 2 or len(b) < 2:
        return None
    df = np.array([len(a) - 1, len(b) - 1])
    true = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    if not true.all():
        return None
    seen = true * np.random.default_rng(0).chisquare(df, (DRAWS, 2)) / df
    welch_df = seen.sum(axis=1) ** 2 / (seen**2 / df).sum(axis=1)
    critical = stats.t.ppf(1 - alpha / claims / 2, welch_df) * np.sqrt(seen.sum(axis=1) / true.sum())

    def excess(shift: float) -> float:  # the tail on the other side is far below the digits that matter
        return float(stats.norm.sf(critical - shift).mean()) - POWER

    return float(optimize.brentq(excess, 0.0, critical.max() + 10)) * math.sqrt(true.sum())
