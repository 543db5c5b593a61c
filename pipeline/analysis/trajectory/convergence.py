"""Convergence: the FP32 plateau and the FP32 best.

Estimand: the first step from which on the expected loss is within TOLERANCE_NATS of the lowest that it still reaches.
A loss that falls with a slope of s nats per run and then stands still is therefore on its plateau 0.005 / s of the run
before its knee. What happens after the lowest point does not count; a later fall below the plateau undoes it.

The lowest later level is the lowest mean over a tenth of the run; where the loss gets worse late (by LATE_RISE_NATS and
clear of noise) it is the lowest smooth loss, which no rise enters. Noise makes the lowest later
level look lower than it is and so the plateau later; the bootstrap measures that bias and it is subtracted. The
uncertainty comes from refitting: noise with the local level and the memory of the residuals is added to the smooth
curve and the rule applied again, and where batches are known their block bootstrap replaces the curve as well. The
share of these replicates that converge says how sure convergence itself is.

The plateau must be seen for PLATEAU_SHARE of the run, so the rule returns no point after that limit. An estimate
closer to it than half the smoother's window lies at the limit of what the rule sees: the plateau may as well begin
later, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.noise import (
    ar1_noise,
    hidden_by_memory,
    local_sd,
    memory,
    smoother,
    tame_outliers,
)

TOLERANCE_NATS = 0.005
"""Improvement that no longer counts: half a per cent of perplexity."""
PLATEAU_SHARE = 0.15
"""The plateau must be seen for this share of the run."""
LEVEL_SHARE = 0.1
"""Later levels are averages over this share of the run."""
LATE_RISE_NATS = 0.01
"""Full precision gets worse late if its smooth loss ends this far above its lowest, ..."""
LATE_RISE_SES = 3.0
"""... and this many standard errors."""
SHARP_SHARE = 0.05
"""The smoother's window for a loss that gets worse late: a wide one would raise the turn."""
ROUNDING = 0.999
"""Factor on shares of the run, so that a checkpoint exactly at one counts as within it."""
SMOOTH_SHARE = 0.08
"""Share of the checkpoints in the smoother's window (at least 3)."""
MIN_SHARE = 0.5
"""Convergence is claimed only if more than this share of the replicates converges: their median is then a step."""
N_REPLICATES = 400
"""Bootstrap replicates of the curve."""


@dataclass(frozen=True)
class ConvergenceFit:
    """Positions in units of x; infinite where a replicate never converges."""

    plateau: float | None
    """First point of the plateau, None = still improving."""
    plateau_draws: FloatArray
    """Shape (N_REPLICATES,)."""
    share: float
    """Share of the replicates that converge."""
    at_limit: bool
    """Whether the plateau lies at the limit of what the rule sees; False without one."""
    best: float
    """Minimum of the smooth curve."""
    best_draws: FloatArray
    """Shape (N_REPLICATES,)."""
    gets_worse: bool
    """Whether the loss rises after its best by more than noise and LATE_RISE_NATS."""
    late_rise_nats: float
    """Smooth loss at the end minus its minimum."""
    smooth: FloatArray
    """The smooth loss, nats, shape (n,)."""


def plateau_start(
    x: FloatArray, y_nb: FloatArray, smooth_nb: FloatArray, *, gets_worse: bool = False
) -> FloatArray:
    """The rule of the module for each column: position of the first plateau point, inf = none; shape (B,)."""
    if gets_worse:
        starts, levels = np.arange(len(x)), smooth_nb
    else:
        starts = np.flatnonzero(x <= x[-1] - LEVEL_SHARE * ROUNDING)
        ends = np.minimum(np.searchsorted(x, x[starts] + LEVEL_SHARE * ROUNDING) + 1, len(x))
        total = np.concatenate([np.zeros((1, y_nb.shape[1])), np.cumsum(y_nb, axis=0)])
        levels = (total[ends] - total[starts]) / (ends - starts)[:, None]
    lowest_later = np.minimum.accumulate(levels[::-1], axis=0)[::-1]
    possible = x[starts] <= x[-1] - PLATEAU_SHARE * ROUNDING
    settled = (smooth_nb[starts] - lowest_later <= TOLERANCE_NATS)[possible]
    return np.where(settled.any(0), x[np.argmax(settled, axis=0)], np.inf)


def fit_convergence(
    x: FloatArray, nll_nats: FloatArray, rng: np.random.Generator, *, replicates: FloatArray | None = None
) -> ConvergenceFit:
    """Apply the rule to one FP32 loss curve.

    x: (n,) positions in [0, 1]; nll_nats: (n,) finite; replicates: (n, B) the curve on resampled batches.
    """
    n = len(x)
    y = tame_outliers(x, nll_nats)
    window = max(3, round(SMOOTH_SHARE * n))
    smooth_by = smoother(x, window)
    smooth = smooth_by @ y
    sd = local_sd(x, y)
    phi = memory((y - smooth) / sd, float(np.trace(smooth_by)))
    sd = sd * hidden_by_memory(phi)
    noise = sd[:, None] * ar1_noise(rng, n, N_REPLICATES, phi)
    centre = smooth[:, None]
    if replicates is not None:
        pick = np.arange(N_REPLICATES) % replicates.shape[1]
        centre = smooth_by @ tame_outliers(x, nll_nats, replicates)[:, pick]
    y_nb = centre + noise
    smooth_nb = smooth_by @ y_nb
    lowest = int(np.argmin(smooth))
    rise_nats = float(smooth[-1] - smooth[lowest])
    rise_se = float(np.std((smooth_by[-1] - smooth_by[lowest]) @ noise))
    gets_worse = rise_nats >= max(LATE_RISE_NATS, LATE_RISE_SES * rise_se)
    sharp_by = smoother(x, max(3, round(SHARP_SHARE * n))) if gets_worse else smooth_by
    raw = float(plateau_start(x, y[:, None], (sharp_by @ y)[:, None], gets_worse=gets_worse)[0])
    draws = plateau_start(x, y_nb, sharp_by @ y_nb, gets_worse=gets_worse)
    share = float(np.mean(np.isfinite(draws)))
    plateau, at_limit = None, False
    if np.isfinite(raw) and share > MIN_SHARE:
        bias = float(np.median(draws)) - raw
        plateau = float(np.clip(raw - bias, x[0], x[-1]))
        latest = int(np.searchsorted(x, x[-1] - PLATEAU_SHARE * ROUNDING, side="right")) - 1
        at_limit = max(raw, plateau) >= float(x[max(latest - window // 2, 0)])
        draws = np.maximum(draws - 2 * bias, x[0])
    return ConvergenceFit(
        plateau=plateau,
        plateau_draws=draws,
        share=share,
        at_limit=at_limit,
        best=float(x[lowest]),
        best_draws=x[np.argmin(smooth_nb, axis=0)],
        gets_worse=gets_worse,
        late_rise_nats=rise_nats,
        smooth=smooth,
    )
