"""The ratio of two means over the same pieces of text, with Fieller's interval.

Source: Fieller, "Some Problems in Interval Estimation" (J. R. Statist. Soc. B 16, 1954): the interval contains
every ratio r for which the mean of x - r y is not significantly different from 0. Unlike an estimate plus and minus
a standard error it stays valid if the denominator is uncertain; if that is not significantly different from 0, any
ratio is possible and there is no interval.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from pipeline.analysis.statistics.bootstrap import BATCH_BLOCK
from pipeline.analysis.statistics.curves import FloatArray

MIN_BLOCKS = 4
"""Fewer blocks of batches are not worth their lost degrees of freedom: then single batches are the units."""


def gap_ratios(
    fp32_batches: FloatArray, batches: FloatArray, against: FloatArray, level: float = 0.95
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
    t2 = stats.t.ppf(0.5 + level / 2, n - 1) ** 2 / (n * (n - 1))
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
