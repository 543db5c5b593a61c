"""Intervals by Student's t and from resampled values, and the power of a t test with given errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from pipeline.analysis.statistics.curves import FloatArray

LEVEL = 0.95
POWER = 0.8
"""Power with which the smallest difference is found."""


@dataclass(frozen=True)
class Bounded:
    """A number with its 95 % interval."""

    estimate: float
    lower: float
    upper: float

    def exp(self) -> Bounded:
        """The exponential of all three."""
        return Bounded(math.exp(self.estimate), math.exp(self.lower), math.exp(self.upper))


def student_half_width(se: float, df: float, level: float = LEVEL) -> float:
    """Half width of the interval of an estimate with standard error ``se`` on ``df`` degrees of freedom."""
    # what stats.t.ppf calls; that takes fifty times as long, and a simulation calls it a hundred thousand times
    return float(special.stdtrit(df, (1 + level) / 2)) * se


def student_p_value(t: float, df: float) -> float:
    """Two-sided p value of ``t`` on ``df`` degrees of freedom."""
    return float(2 * special.stdtr(df, -abs(t)))


def mean_half_width(values: FloatArray) -> float:
    """Half width for the mean of independent ``values`` (n,); 0 for one value, whose scatter is unknown."""
    n = len(values)
    return 0.0 if n < 2 else student_half_width(float(values.std(ddof=1)) / math.sqrt(n), n - 1)


def percentiles(draws: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the equal-tailed interval of ``draws``."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
