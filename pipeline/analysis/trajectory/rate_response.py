"""Responses of a gap to the learning rate, and the dose: its growth per halving of the rate.

A response is a smooth function of the rate alone: a power of it, a power of what has gone of it, a logistic. Any
monotone curve is some function of a rate that falls for the whole run, so the family is kept smooth on purpose: what
breaks while the rate goes on falling smoothly is not a response to it.

The dose is d in gap = a + b step + d log2(peak / rate), by least squares with the noise levels and the memory of the
trajectory: percentage points of gap per halving of the rate, beside a steady growth. Its interval resamples blocks of
neighbouring residuals and, where losses per batch are known, the evaluation text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.bootstrap import block_indices
from pipeline.analysis.statistics.curves import FloatArray, IntArray
from pipeline.analysis.statistics.intervals import percentiles
from pipeline.analysis.statistics.noise import memory, noise_shape, smoother, tame_outliers, whiten
from pipeline.analysis.statistics.scales import LeastSquares

AT_PEAK = 1e-3
"""Rates within this fraction of the peak count as the peak."""
FLOOR_RATE = 0.01
"""Rates under this share of the peak count as this: a rate of zero has no logarithm."""
MOST_UNKNOWN = 0.2
"""A rate that is unknown at more than this share of the checkpoints is not used."""
FALLING_POWERS = (-2.0, -1.0, -0.5)
"""Exponents k of the responses rate^k."""
GONE_POWERS = (1.0, 2.0, 3.0)
"""Exponents k of the responses (1 - rate / peak)^k."""
LOGISTIC_MIDDLES = (0.25, 0.5, 0.75)
LOGISTIC_WIDTHS = (0.1, 0.2)
"""Middles and widths of the logistic responses, as shares of the peak."""
LEAST_FALL = 0.5
"""Halvings of the rate under which no dose is estimated."""
FROM_SHARE = 0.1
"""The first tenth of the run enters no dose: early transients have nothing to do with the rate."""
MIN_POINTS = 8
"""Fewer checkpoints after that give no dose."""
N_DRAWS = 1000


def relative_rate(step: IntArray, learning_rate: FloatArray | None) -> FloatArray | None:
    """Learning rate over its peak at each checkpoint, 1 until the peak is reached, at least FLOOR_RATE; shape (n,).

    Rates that are unknown (NaN) are read off the line between their neighbours. None where the rate is unknown at the
    first or the last checkpoint, at too many, or everywhere zero.
    """
    if learning_rate is None:
        return None
    known = np.isfinite(learning_rate)
    if not (known[0] and known[-1]) or np.mean(~known) > MOST_UNKNOWN or learning_rate[known].max() <= 0:
        return None
    rate = np.interp(step, step[known], learning_rate[known])
    rate = np.clip(rate / rate.max(), FLOOR_RATE, 1.0)
    rate[: int(np.argmax(rate >= 1 - AT_PEAK))] = 1.0
    return rate


def responses(rate: FloatArray) -> FloatArray:
    """The responses to a relative rate (n,), each rising as the rate falls; (n, F), F = 0 where it never does."""
    if rate.min() > 1 - AT_PEAK:
        return np.empty((len(rate), 0))
    columns = [-np.log(rate)]
    columns += [rate**k for k in FALLING_POWERS]
    columns += [(1.0 - rate) ** k for k in GONE_POWERS]
    columns += [1.0 / (1.0 + np.exp((rate - m) / w)) for m in LOGISTIC_MIDDLES for w in LOGISTIC_WIDTHS]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Dose:
    """Percentage points of gap per halving of the learning rate, with its interval."""

    estimate: float
    lower: float
    upper: float
    unit: str = "points of gap per halving of the learning rate"


def fit_dose(
    x: FloatArray,
    gap: FloatArray,
    rate: FloatArray | None,
    rng: np.random.Generator,
    *,
    replicates: FloatArray | None = None,
    level: float = 0.95,
) -> Dose | None:
    """The dose of one curve; None if the rate is unknown, hardly falls or is collinear with the step.

    x: (n,) positions; gap: (n,) unitless; rate: (n,) relative; replicates: (n, B) the gap on resampled text.
    """
    late = x >= FROM_SHARE
    if rate is None or np.sum(late) < MIN_POINTS:
        return None
    x, gap, rate = x[late], gap[late], rate[late]
    replicates = None if replicates is None else replicates[late]
    if np.log2(rate.max() / rate.min()) < LEAST_FALL:
        return None
    design = np.stack([np.ones_like(x), x, -np.log2(rate)], axis=1)
    y = tame_outliers(x, gap)
    sd = noise_shape(x, y, np.maximum(smoother(x, max(7, len(x) // 10)) @ y, 1e-3))
    first = LeastSquares.fit(design, y, sd, 0.0)
    phi = memory((y - first.fitted) / sd, design.shape[1])
    white = whiten(design / sd[:, None], phi)
    line = white[:, :2]
    left = white[:, 2] - line @ np.linalg.lstsq(line, white[:, 2], rcond=None)[0]
    if left @ left < 1e-6 * (white[:, 2] @ white[:, 2]):
        return None
    by = left / (left @ left)  # the dose of white data z is by @ z
    z = whiten(y / sd, phi)
    residual = z - white @ np.linalg.lstsq(white, z, rcond=None)[0]
    residual = residual * np.sqrt(len(x) / max(len(x) - design.shape[1], 1))
    block = max(2, round(len(x) ** (1 / 3)))
    estimate = float(by @ z)
    draws = estimate + residual[block_indices(rng, len(x), block, N_DRAWS)] @ by
    if replicates is not None:
        text = by @ whiten(tame_outliers(x, gap, replicates) / sd[:, None], phi)
        draws = draws + np.resize(text[np.isfinite(text)] - estimate, N_DRAWS)
    low, high = percentiles(draws, level)
    return Dose(100 * estimate, 100 * low, 100 * high)
