"""When full precision stops getting better: the FP32 plateau and the FP32 best.

The plateau begins at the first checkpoint after which no later tenth of the run averages more than TOLERANCE nats
below it. A later rise does not undo it, a later fall does. The uncertainty comes from refitting: noise with the
local level and the memory of the residuals is added to the smooth curve and the rule applied again, and where
batches are known their block bootstrap replaces the curve as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.curves import FloatArray
from pipeline.analysis.noise import ar1_noise, local_sd, memory, smoother, tame_outliers

TOLERANCE_NATS = 0.005
"""Improvement that no longer counts: half a per cent of perplexity."""
PLATEAU_SHARE = 0.1
"""The plateau must be seen for this share of the run, and its level is averaged over as much."""
SMOOTH_SHARE = 0.08
"""Share of the checkpoints in the smoother's window (at least 5)."""
N_REPLICATES = 400
"""Bootstrap replicates of the curve."""


@dataclass(frozen=True)
class ConvergenceFit:
    """Positions in units of x; infinite where a replicate never converges."""

    plateau: float | None
    """First point of the plateau, None = still improving."""
    plateau_draws: FloatArray
    """Shape (N_REPLICATES,)."""
    best: float
    """Minimum of the smooth curve."""
    best_draws: FloatArray
    """Shape (N_REPLICATES,)."""
    remaining_nats: float
    """Improvement still made over the last PLATEAU_SHARE of the run (smoothed; negative = it rose)."""
    late_rise_nats: float
    """Smooth loss at the end minus its minimum."""


def _window_means(x: FloatArray, y_nb: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean of y over every stretch of PLATEAU_SHARE that fits in the run, and where each begins."""
    last = np.searchsorted(x, x + PLATEAU_SHARE * 0.999, side="left")
    starts = np.flatnonzero(x <= x[-1] - PLATEAU_SHARE * 0.999)
    total = np.concatenate([np.zeros((1, y_nb.shape[1])), np.cumsum(y_nb, axis=0)])
    ends = np.minimum(last[starts] + 1, len(x))
    return (total[ends] - total[starts]) / (ends - starts)[:, None], starts


def plateau_start(x: FloatArray, y_nb: FloatArray, smooth_nb: FloatArray) -> FloatArray:
    """The rule of the module for each column: position of the first plateau point, inf = none; shape (B,)."""
    means, starts = _window_means(x, y_nb)
    if not len(starts):
        return np.full(y_nb.shape[1], np.inf)
    lowest_later = np.minimum.accumulate(means[::-1], axis=0)[::-1]
    settled = smooth_nb[starts] - lowest_later <= TOLERANCE_NATS
    return np.where(settled.any(0), x[starts][np.argmax(settled, axis=0)], np.inf)


def fit_convergence(
    x: FloatArray, nll_nats: FloatArray, rng: np.random.Generator, *, replicates: FloatArray | None = None
) -> ConvergenceFit:
    """Apply the rule to one FP32 loss curve.

    x: (n,) positions in [0, 1]; nll_nats: (n,) finite; replicates: (n, B) the curve on resampled batches.
    """
    n = len(x)
    y = tame_outliers(x, nll_nats)
    smooth_by = smoother(x, max(5, round(SMOOTH_SHARE * n)))
    smooth = smooth_by @ y
    sd = local_sd(x, y)
    phi = memory((y - smooth) / sd, 1)
    noise = sd[:, None] * ar1_noise(rng, n, N_REPLICATES, phi)
    centre = smooth[:, None]
    if replicates is not None:
        pick = np.arange(N_REPLICATES) % replicates.shape[1]
        centre = smooth_by @ replicates[:, pick]
    y_nb = centre + noise
    smooth_nb = smooth_by @ y_nb
    plateau = float(plateau_start(x, y[:, None], smooth[:, None])[0])
    tail = x >= x[-1] - PLATEAU_SHARE
    return ConvergenceFit(
        plateau=plateau if np.isfinite(plateau) else None,
        plateau_draws=plateau_start(x, y_nb, smooth_nb),
        best=float(x[np.argmin(smooth)]),
        best_draws=x[np.argmin(smooth_nb, axis=0)],
        remaining_nats=float(smooth[tail][0] - smooth[-1]),
        late_rise_nats=float(smooth[-1] - smooth.min()),
    )
