"""Correlation of kurtosis with the INT4 gap over phase 3.

Neighbouring checkpoints are nearly the same model, so n checkpoints are far fewer than n observations: two
series that merely trend correlate strongly by accident (Yule, J. R. Stat. Soc. 1926). The test therefore
reports n, the effective n under first-order memory, n_eff = n (1 - r_x r_y) / (1 + r_x r_y) (Bartlett 1935;
Bretherton et al., J. Climate 1999), p-values that use it, and intervals that are the wider of Fisher's with
n_eff and a block bootstrap.

n_eff has a floor of MIN_EFFECTIVE, under which no correlation could be tested at all; `n_effective_unclipped` is the
number without it. Nor does n_eff know of trends: those of two series with white noise on them have little memory and a
strong correlation. So the correlation of what a straight line in step leaves of each series stands beside it (the
partial correlation given the step, which costs one more observation), and the two are called related only if both
correlations say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.statistics.bootstrap import block_indices
from pipeline.analysis.statistics.curves import FloatArray, IntArray
from pipeline.analysis.statistics.intervals import LEVEL
from pipeline.base.english import counted

MIN_POINTS = 5
"""Fewer phase-3 checkpoints give no answer."""
MIN_EFFECTIVE = 3.0
"""Floor of the effective n."""
N_REPLICATES = 1000


@dataclass(frozen=True)
class KurtosisTest:
    """Correlation of kurtosis and gap over n checkpoints; every number None when `reason` says why."""

    n: int
    n_effective: float | None = None
    """Effective n, at least MIN_EFFECTIVE and at most n."""
    n_effective_unclipped: float | None = None
    """The same without these bounds: under 3 the checkpoints hold too little to test a correlation."""
    pearson_r: float | None = None
    pearson_p: float | None = None
    pearson_ci: tuple[float, float] | None = None
    spearman_r: float | None = None
    spearman_p: float | None = None
    spearman_ci: tuple[float, float] | None = None
    pearson_p_naive: float | None = None
    """p if the checkpoints were independent (they are not): for comparison with papers only."""
    spearman_p_naive: float | None = None
    detrended_n_effective: float | None = None
    """Effective n of what a straight line in step leaves of both."""
    detrended_pearson_r: float | None = None
    """Correlation of what it leaves: the partial correlation given the step."""
    detrended_pearson_p: float | None = None
    detrended_pearson_ci: tuple[float, float] | None = None
    related: bool | None = None
    """Whether the intervals of both Pearson correlations, with and without the trends, lie on the same side of 0."""
    reason: str | None = None


def kurtosis_test(
    kurtosis: FloatArray | None, gap: FloatArray, step: IntArray, *, seed: int = 0
) -> KurtosisTest:
    """Correlate kurtosis (n,) with the gap (n,) of phase 3 at its steps (n,); non-finite pairs are left out."""
    if kurtosis is None:
        return KurtosisTest(0, reason="no kurtosis was measured")
    keep = np.isfinite(kurtosis) & np.isfinite(gap)
    x, y = np.asarray(kurtosis, dtype=np.float64)[keep], np.asarray(gap, dtype=np.float64)[keep]
    n = len(x)
    if n < MIN_POINTS:
        return KurtosisTest(
            n, reason=f"{counted(n, 'checkpoint')} in phase 3, at least {MIN_POINTS} are needed"
        )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return KurtosisTest(n, reason="kurtosis or gap does not vary over phase 3")
    ranks = stats.rankdata(x), stats.rankdata(y)
    unclipped = _independent_pairs(x, y)
    n_eff = _clipped(unclipped, n)
    rng = np.random.default_rng(seed)
    index = _resampled(rng, n, n_eff)
    r, rho = _pearson(x, y), _pearson(*ranks)
    pearson_ci = _interval(r, n_eff, _rows(x[index], y[index]))
    spearman_ci = _interval(
        rho, n_eff, _rows(stats.rankdata(x[index], axis=1), stats.rankdata(y[index], axis=1))
    )
    a, b = (_without_trend(step[keep], values) for values in (x, y))
    n_left = _clipped(_independent_pairs(a, b, n_parameters=2), n)
    partial = _pearson(a, b)
    index = _resampled(rng, n, n_left)
    partial_ci = _interval(partial, n_left - 1, _rows(a[index], b[index]))
    return KurtosisTest(
        n=n,
        n_effective=n_eff,
        n_effective_unclipped=unclipped,
        pearson_r=r,
        pearson_p=_p_value(r, n_eff),
        pearson_ci=pearson_ci,
        spearman_r=rho,
        spearman_p=_p_value(rho, n_eff),
        spearman_ci=spearman_ci,
        pearson_p_naive=_p_value(r, n),
        spearman_p_naive=_p_value(rho, n),
        detrended_n_effective=n_left,
        detrended_pearson_r=partial,
        detrended_pearson_p=_p_value(partial, n_left - 1),
        detrended_pearson_ci=partial_ci,
        related=min(pearson_ci[0], partial_ci[0]) > 0 or max(pearson_ci[1], partial_ci[1]) < 0,
    )


def _without_trend(step: IntArray, values: FloatArray) -> FloatArray:
    """Residuals of a straight line in step; exactly 0 if they are rounding only."""
    design = np.stack([np.ones(len(step)), step / step[-1]], axis=1)
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return left if np.ptp(left) > 1e-9 * np.ptp(values) else np.zeros_like(left)


def _resampled(rng: np.random.Generator, n: int, n_eff: float) -> IntArray:
    """Rows of the block bootstrap; blocks as long as the memory."""
    return block_indices(rng, n, max(2, math.ceil(n ** (1 / 3)), math.ceil(n / n_eff)), N_REPLICATES)


def _independent_pairs(x: FloatArray, y: FloatArray, *, n_parameters: int = 1) -> float:
    """Number of independent pairs with the same information, unbounded; n_parameters were fitted to each."""
    product = _lag1(x, n_parameters) * _lag1(y, n_parameters)
    return len(x) * (1 - product) / (1 + product)


def _clipped(n_effective: float, n: int) -> float:
    return float(np.clip(n_effective, min(MIN_EFFECTIVE, n), n))


def _lag1(x: FloatArray, n_parameters: int) -> float:
    d = x - x.mean()
    r = float(d[1:] @ d[:-1] / max(float(d @ d), 1e-300))
    return float(np.clip(r + (n_parameters + 3 * r) / len(x), -0.99, 0.99))


def _pearson(x: FloatArray, y: FloatArray) -> float:
    return float(np.clip(_rows(x[None], y[None])[0], -1.0, 1.0))


def _rows(x: FloatArray, y: FloatArray) -> FloatArray:
    dx, dy = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    size = np.sqrt((dx**2).sum(1) * (dy**2).sum(1))
    return np.divide((dx * dy).sum(1), size, out=np.zeros(len(x)), where=size > 0)


def _p_value(r: float, n: float) -> float:
    """Two-sided p of r under Student's t with n - 2 degrees of freedom."""
    t = abs(r) * math.sqrt(max(n - 2, 1e-9) / max(1 - r * r, 1e-15))
    return float(2 * stats.t.sf(t, max(n - 2, 1e-9)))


def _interval(r: float, n: float, resampled: FloatArray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = (float(q) for q in np.quantile(resampled, [tail, 1 - tail]))
    if n <= 3.5:
        return min(low, -1.0), 1.0
    reach = float(stats.norm.isf(tail)) / math.sqrt(n - 3)
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    return min(low, math.tanh(z - reach)), max(high, math.tanh(z + reach))
