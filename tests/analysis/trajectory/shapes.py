"""True courses over a run, x = step / last step: learning rates, FP32 losses, gaps with and without an onset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rng = np.random.Generator
WARM_UP = 0.01
WSD_DECAY = 114_000 / 143_000
"""Where the decay of the warm-up, stable, decay schedules begins."""
SCALES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "gap": (lambda g: g, lambda y: y),
    "nats": (np.log1p, np.expm1),
    "log": (np.log, np.exp),
}


def _warm(x: Array, rate: Array) -> Array:
    return np.where(x < WARM_UP, x / WARM_UP, rate)


def _decay(x: Array) -> Array:
    """Share of the decay that is done, 0 before it."""
    return np.clip((x - WSD_DECAY) / (1 - WSD_DECAY), 0, 1)


RATES: dict[str, Callable[[Array], Array]] = {
    "constant": lambda x: _warm(x, np.ones_like(x)),
    "cosine": lambda x: _warm(x, 0.55 + 0.45 * np.cos(np.pi * np.clip(x - WARM_UP, 0, 1) / (1 - WARM_UP))),
    # gpt-neox v1.0 as it trained Pythia: a cosine to zero, clipped at a tenth (reached at step 115,139 of 143,000)
    "pythia": lambda x: _warm(x, np.maximum(0.5 + 0.5 * np.cos(np.pi * np.clip(x - WARM_UP, 0, 1)), 0.1)),
    "linear": lambda x: _warm(x, 1 - 0.9 * np.clip(x - WARM_UP, 0, 1) / (1 - WARM_UP)),
    "wsd": lambda x: _warm(x, 1 - 0.9 * _decay(x)),
    "wsd_sqrt": lambda x: _warm(x, 1 - 0.95 * np.sqrt(_decay(x))),
}
"""Learning rate over its peak."""

RESPONSES: dict[str, Callable[[Array], Array]] = {
    "inverse": lambda r: 0.012 / r,
    "inverse_from_5": lambda r: 0.05 + 0.012 / r,
    "log_rate": lambda r: 0.05 - 0.03 * np.log(r),
    "inverse_root": lambda r: 0.05 + 0.03 * (r**-0.5 - 1),
    "inverse_square": lambda r: 0.05 + 0.0007 * r**-2.0,
    "one_minus": lambda r: 0.05 + 0.07 * (1 - r) / 0.9,
    "one_minus_squared": lambda r: 0.05 + 0.07 * ((1 - r) / 0.9) ** 2,
    "one_minus_cubed": lambda r: 0.05 + 0.07 * ((1 - r) / 0.9) ** 3,
    "logistic_wide": lambda r: 0.05 + 0.07 / (1 + np.exp((r - 0.4) / 0.15)),
    "logistic_sharp": lambda r: 0.05 + 0.07 / (1 + np.exp((r - 0.5) / 0.05)),
}
"""Gaps that answer to the rate over its peak and to nothing else."""

STEADY: dict[str, Callable[[Array], Array]] = {
    "flat": lambda x: np.full_like(x, 0.06),
    "linear": lambda x: 0.05 + 0.07 * x,
    "log": lambda x: 0.05 + 0.07 * np.log1p(x / 0.01) / np.log1p(100),
    "root": lambda x: 0.05 + 0.07 * np.sqrt(x),
    "saturating": lambda x: 0.05 + 0.07 * (1 - np.exp(-x / 0.25)),
    "exponential": lambda x: 0.05 * np.exp(0.9 * x),
    "steep_exponential": lambda x: 0.11 * np.exp(3 * x),
    "nats_linear": lambda x: np.expm1(0.1 + 1.2 * x),
    "falling": lambda x: 0.12 - 0.06 * x,
    "falling_then_flat": lambda x: 0.12 - 0.1 * np.minimum(x, 0.6),
    "slowing": lambda x: kinked(x, 0.5, 0.2, 0.05, 0.12),
    "transient": lambda x: 0.03 + 0.03 * (1 - np.exp(-x / 0.04)) + 0.02 * x,
    "bump": lambda x: 0.05 + 0.02 * x + 0.05 * (x / 0.02) * np.exp(1 - x / 0.02),
    "quadratic": lambda x: 0.05 + 0.07 * x**2,
    "cubic": lambda x: 0.05 + 0.07 * x**3,
    "quartic": lambda x: 0.05 + 0.07 * x**4,
}
"""Gaps without an onset that know of time alone."""


def kinked(x: Array, at: float, ratio: float, first: float, last: float, scale: str = "gap") -> Array:
    """Straight lines on `scale` from `first` to `last`, the slope multiplied by `ratio` at x = `at`."""
    forward, back = SCALES[scale]
    lo, hi = forward(np.array([first, last]))
    slope = (hi - lo) / (at + ratio * (1 - at)) if np.isfinite(ratio) else 0.0
    bend = (ratio - 1) * slope if np.isfinite(ratio) else (hi - lo) / (1 - at)
    return back(lo + slope * x + bend * np.maximum(x - at, 0))


def softened(x: Array, at: float, width: float, first: float, last: float) -> Array:
    """Flat, then straight, joined by a soft-plus of the given width (a share of the run)."""
    soft = width * np.logaddexp(0, (x - at) / width)
    return first + (last - first) * soft / (1 - at)


ONSETS: dict[str, Callable[[Array, float], Array]] = {
    "x3": lambda x, at: kinked(x, at, 3, 0.05, 0.12),
    "x5": lambda x, at: kinked(x, at, 5, 0.05, 0.12),
    "x10": lambda x, at: kinked(x, at, 10, 0.05, 0.12),
    "x3_of_exponential": lambda x, at: kinked(x, at, 3, 0.03, 0.15, "log"),
    "from_flat": lambda x, at: kinked(x, at, np.inf, 0.05, 0.12),
    "soft": lambda x, at: softened(x, at, 0.02, 0.05, 0.12),
    "after_transient": lambda x, at: 0.02 * (1 - np.exp(-x / 0.03)) + kinked(x, at, 10, 0.03, 0.10),
    "explosion": lambda x, at: kinked(x, at, np.inf, 0.11, 5.17, "nats"),
    "explosion_straight": lambda x, at: kinked(x, at, np.inf, 0.11, 5.17, "gap"),
    "explosion_exponential": lambda x, at: kinked(x, at, 20, 0.11, 5.17, "log"),
    "explosion_soft": lambda x, at: softened(x, at, 0.02, 0.11, 5.17),
}
"""Gaps that take off at x = `at`."""


def fp32_loss(x: Array, stops: float | None, late_rise: float = 0.0) -> Array:
    """A power law, nats; from x = `stops` on it stands still, or rises by `late_rise` to the end."""
    end = 1.0 if stops is None else stops
    loss = 1.0 + (np.minimum(x, end) + 0.005) ** -0.15
    return loss + (late_rise * np.maximum(x - end, 0) / (1 - end) if late_rise else 0.0)


def stagnating_loss(x: Array) -> Array:
    """The abstract's curve: falls fast to 7,000 of 143,000 steps, by 0.02 nats to 77,000, then rises by 0.02."""
    early, best = 7 / 143, 77 / 143
    fall = 0.02 * (best - np.clip(x, early, best)) / (best - early)
    return 2.0 + fall + 3.0 * np.maximum(early - x, 0) / early + 0.02 * np.maximum(x - best, 0) / (1 - best)


def settled_at(x: Array, loss: Array, tolerance_nats: float = 0.005) -> float:
    """First x from which on a true loss is within the tolerance of the lowest that it still reaches."""
    lowest = np.minimum.accumulate(loss[::-1])[::-1]
    return float(x[np.argmax(loss - lowest <= tolerance_nats)])
