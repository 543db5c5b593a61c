"""Intervals by Student's t, from resampled values and of ratios, and the power of a t test with given errors.

The ratio of two means over the same pieces of text has Fieller's interval ("Some Problems in Interval Estimation",
J. R. Statist. Soc. B 16, 1954): it contains every ratio r for which the mean of x - r y is not significantly different
from 0. Unlike an estimate plus and minus a standard error it stays valid if the denominator is uncertain; if that is
not significantly different from 0, any ratio is possible and there is no interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from pipeline.analysis.statistics.bootstrap import BATCH_BLOCK
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


def student_half_width(se: float, df: float) -> float:
    """Half width of the 95 % interval of an estimate with standard error ``se`` on ``df`` degrees of freedom."""
    # what stats.t.ppf calls; that takes fifty times as long, and a simulation calls it a hundred thousand times
    return float(special.stdtrit(df, (1 + LEVEL) / 2)) * se


def student_p_value(t: float, df: float) -> float:
    """Two-sided p value of ``t`` on ``df`` degrees of freedom."""
    return float(2 * special.stdtr(df, -abs(t)))


def mean_se(values: FloatArray) -> float:
    """Standard error of the mean of independent ``values`` (n,); NaN for one, whose scatter is unknown."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def mean_half_width(values: FloatArray) -> float:
    """Half width for the mean of independent ``values`` (n,); 0 for one value, whose scatter is unknown."""
    n = len(values)
    return 0.0 if n < 2 else student_half_width(mean_se(values), n - 1)


def percentiles(draws: FloatArray, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the equal-tailed interval of ``draws``."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def stretched(weights: FloatArray, n: int) -> FloatArray:
    """Bootstrap weights (units, replicates) after a first column of equal ones, spread as Student's t of n - 1 degrees
    asks: a bootstrap of n units alone spreads too little.
    """
    units, size = weights.shape
    equal = np.full((units, 1), 1 / units)
    if n < 2:
        return np.repeat(equal, size + 1, axis=1)
    tail = (1 + LEVEL) / 2
    stretch = math.sqrt(n / (n - 1)) * float(stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail))
    return np.concatenate([equal, equal + stretch * (weights - equal)], axis=1)


def smallest_found(se: float, df: float, *, alpha: float = 0.05) -> float:
    """Smallest true difference that a two-sided t test claims with :data:`POWER` at level ``alpha``.

    se: standard error of the difference, with ``df`` degrees of freedom; > 0. The tail on the other side is far below
    the digits that matter.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def excess(shift: float) -> float:
        return float(stats.nct.sf(critical, df, shift)) - POWER

    return se * float(optimize.brentq(excess, 0.0, 2 * critical + 10))


def power_of(difference: float, se: float, df: float) -> float:
    """Probability that a two-sided t test at 0.05 claims a true ``difference`` in its direction; NaN where se is 0."""
    if se == 0:
        return math.nan
    return float(stats.nct.sf(stats.t.ppf(1 - 0.05 / 2, df), df, difference / se))


MIN_BLOCKS = 4
"""Fewer blocks of batches are not worth their lost degrees of freedom: then single batches are the units."""


def gap_ratios(
    fp32_batches: FloatArray, batches: FloatArray, against: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The gap of one variant over the gap of another, its lower and its upper bound, each (n,).

    fp32_batches, batches, against: (n, n_batches) nats per token of the baseline and the two variants on equally long
    batches. A gap is linear in small changes of the losses, by which each batch counts; units are blocks of
    neighbouring batches. NaN where the gap of ``against`` cannot be told from 0, or a loss is not a number.
    """
    x, y = _influences(batches - fp32_batches), _influences(against - fp32_batches)
    n = x.shape[1]
    if n < 2:
        return (np.full(len(x), np.nan),) * 3
    mean_x, mean_y = x.mean(axis=1), y.mean(axis=1)
    t2 = stats.t.ppf(0.5 + LEVEL / 2, n - 1) ** 2 / (n * (n - 1))
    dx, dy = x - mean_x[:, None], y - mean_y[:, None]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        a = mean_y**2 - t2 * (dy**2).sum(axis=1)
        b = mean_x * mean_y - t2 * (dx * dy).sum(axis=1)
        c = mean_x**2 - t2 * (dx**2).sum(axis=1)
        half = np.sqrt(np.maximum(b**2 - a * c, 0.0))
        known = np.isfinite(half) & (a > 0)
        found = [
            np.where(known, value, np.nan) for value in (mean_x / mean_y, (b - half) / a, (b + half) / a)
        ]
    return found[0], found[1], found[2]


def _influences(difference: FloatArray) -> FloatArray:
    """Influence of each unit of text on the gap: values (n, units) whose mean is the gap."""
    n_batches = difference.shape[1]
    blocks = n_batches // BATCH_BLOCK
    if blocks >= MIN_BLOCKS and n_batches % BATCH_BLOCK == 0:
        difference = difference.reshape(len(difference), blocks, BATCH_BLOCK).mean(axis=2)
    mean = difference.mean(axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        influences: FloatArray = np.expm1(mean) + np.exp(mean) * (difference - mean)
    return influences
