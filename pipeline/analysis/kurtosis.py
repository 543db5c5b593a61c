"""Does kurtosis move with the INT4 gap once the damage grows? Correlations over phase 3.

Neighbouring checkpoints are nearly the same model, so n checkpoints are far fewer than n observations: two
series that merely trend correlate strongly by accident (Yule, J. R. Stat. Soc. 1926). The test therefore
reports n, the effective n under first-order memory, n_eff = n (1 - r_x r_y) / (1 + r_x r_y) (Bartlett 1935;
Bretherton et al., J. Climate 1999), p-values that use it, and intervals that are the wider of Fisher's with
n_eff and a block bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.bootstrap import block_indices
from pipeline.analysis.curves import FloatArray

Json = dict[str, object]
MIN_POINTS = 5
"""Fewer phase-3 checkpoints give no answer."""
N_REPLICATES = 1000


@dataclass(frozen=True)
class KurtosisTest:
    """Correlation of kurtosis and gap over n checkpoints; every number None when `reason` says why."""

    n: int
    n_effective: float | None = None
    pearson_r: float | None = None
    pearson_p: float | None = None
    pearson_ci: tuple[float, float] | None = None
    spearman_r: float | None = None
    spearman_p: float | None = None
    spearman_ci: tuple[float, float] | None = None
    pearson_p_naive: float | None = None
    """p if the checkpoints were independent (they are not): for comparison with papers only."""
    spearman_p_naive: float | None = None
    reason: str | None = None

    def to_json(self) -> Json:
        """The value of `kurtosis_test` in report.json."""
        out: Json = dict(vars(self))
        for key in ("pearson_ci", "spearman_ci"):
            value = out[key]
            out[key] = list(value) if isinstance(value, tuple) else None
        return out


def kurtosis_test(
    kurtosis: FloatArray | None, gap: FloatArray, *, seed: int = 0, level: float = 0.95
) -> KurtosisTest:
    """Correlate kurtosis (n,) with the gap (n,) of phase 3; non-finite pairs are left out."""
    if kurtosis is None:
        return KurtosisTest(0, reason="no kurtosis was measured")
    keep = np.isfinite(kurtosis) & np.isfinite(gap)
    x, y = np.asarray(kurtosis, dtype=np.float64)[keep], np.asarray(gap, dtype=np.float64)[keep]
    n = len(x)
    if n < MIN_POINTS:
        return KurtosisTest(n, reason=f"{n} checkpoints in phase 3, at least {MIN_POINTS} are needed")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return KurtosisTest(n, reason="kurtosis or gap does not vary over phase 3")
    ranks = stats.rankdata(x), stats.rankdata(y)
    n_eff = effective_n(x, y)
    rng = np.random.default_rng(seed)
    index = block_indices(rng, n, max(2, math.ceil(n ** (1 / 3)), math.ceil(n / n_eff)), N_REPLICATES)
    r, rho = _pearson(x, y), _pearson(*ranks)
    return KurtosisTest(
        n=n,
        n_effective=n_eff,
        pearson_r=r,
        pearson_p=_p_value(r, n_eff),
        pearson_ci=_interval(r, n_eff, _rows(x[index], y[index]), level),
        spearman_r=rho,
        spearman_p=_p_value(rho, n_eff),
        spearman_ci=_interval(
            rho, n_eff, _rows(stats.rankdata(x[index], axis=1), stats.rankdata(y[index], axis=1)), level
        ),
        pearson_p_naive=_p_value(r, n),
        spearman_p_naive=_p_value(rho, n),
    )


def effective_n(x: FloatArray, y: FloatArray) -> float:
    """Number of independent pairs with the same information, between 3 and n; x, y: (n,)."""
    n = len(x)
    product = _lag1(x) * _lag1(y)
    return float(np.clip(n * (1 - product) / (1 + product), min(3.0, n), n))


def _lag1(x: FloatArray) -> float:
    d = x - x.mean()
    r = float(d[1:] @ d[:-1] / (d @ d))
    return float(np.clip(r + (1 + 3 * r) / len(x), -0.99, 0.99))


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


def _interval(r: float, n: float, resampled: FloatArray, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = (float(q) for q in np.quantile(resampled, [tail, 1 - tail]))
    if n <= 3.5:
        return min(low, -1.0), 1.0
    reach = float(stats.norm.isf(tail)) / math.sqrt(n - 3)
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    return min(low, math.tanh(z - reach)), max(high, math.tanh(z + reach))
