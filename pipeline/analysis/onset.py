"""Where a gap curve's growth rate jumps up, how sure that is, and whether it happens at all.

The family of `hinges` is fitted on three scales (gap, nats = log(1 + gap), log gap) with the noise of the gap
propagated to each, so that "growth rate" can mean gap per step or per cent per step: a gap that grows steadily on
any one of the three needs no onset. The evidence is the log posterior odds of all models with an onset against all
without; its null distribution is simulated from the best curve without one, with the noise level, shape and memory
found here (a parametric bootstrap: no asymptotics, because a knot does not exist under the null).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from pipeline.analysis.curves import FloatArray
from pipeline.analysis.hinges import HingeGrid, Shape, columns, transients
from pipeline.analysis.noise import ar1_noise, memory, noise_shape, smoother, tame_outliers, whiten

FIRST_KNOT = 0.05
"""No onset is looked for in the first 5 % of the run (the early transient)."""
POINTS_BEFORE, POINTS_AFTER = 4, 3
"""Checkpoints needed on either side of an onset."""
N_NULL = 199
"""Simulated null curves."""
RATE_WINDOW = 0.25
"""Growth before the onset is averaged over at most this share of the run."""
DRAWS = 2000
"""Posterior draws kept of the onset, for differences with other events."""

_SCALES: dict[str, tuple[Callable[..., FloatArray], Callable[..., FloatArray], Callable[..., FloatArray]]] = {
    "gap": (lambda g: g, lambda y: y, np.ones_like),
    "nats": (np.log1p, np.expm1, lambda g: 1.0 / (1.0 + g)),
    "log": (np.log, np.exp, lambda g: 1.0 / g),
}


@dataclass(frozen=True)
class OnsetFit:
    """The best single onset of a gap curve; whether to believe it is for the rules in `phases`."""

    step: float
    """Posterior median."""
    draws: FloatArray
    """Posterior draws in steps, shape (DRAWS,)."""
    p_value: float
    """Share of simulated curves without an onset whose evidence is at least as strong."""
    log_odds: float
    """Log posterior odds, onset against none."""
    rate_before: float
    """Growth per run before the onset on the best model's scale."""
    rate_after: float
    """Growth per run after it, same scale."""
    rise: float
    """Growth of the gap from the onset to the end, unitless."""
    rise_se: float
    """Its standard error."""
    scale: str
    """`gap`, `nats` or `log`: the scale on which the curve is piecewise straight."""
    noise_sd: float
    """Median standard deviation of one checkpoint's gap."""
    noise_memory: float
    """Lag-1 autocorrelation of that noise."""


class _Scaled:
    """The curve on one scale, linearised about its smooth so that noise keeps its size."""

    def __init__(self, name: str, gap: FloatArray, anchor: FloatArray, sd: FloatArray) -> None:
        self.name = name
        self.to, self.back, derivative = _SCALES[name]
        self.slope = derivative(anchor)
        self.anchor = anchor
        self.sd = sd * self.slope

    def data(self, gap: FloatArray) -> FloatArray:
        """Gap curves (n, B) on this scale."""
        return self.to(self.anchor)[:, None] + self.slope[:, None] * (gap - self.anchor[:, None])

    def simulated(self, truth: FloatArray, noise: FloatArray) -> FloatArray:
        """Exact on the true curve (n,), linear in the noise (n, B)."""
        return self.to(truth)[:, None] + self.slope[:, None] * noise


def _scales(gap: FloatArray, smooth: FloatArray, sd: FloatArray) -> list[_Scaled]:
    out = [_Scaled("gap", gap, smooth, sd)]
    if np.all(smooth > -0.5):
        out.append(_Scaled("nats", gap, smooth, sd))
    if np.all(smooth > 2.0 * sd):
        out.append(_Scaled("log", gap, smooth, sd))
    return out


def knot_grid(x: FloatArray) -> FloatArray:
    """Places tried for an onset: every checkpoint in range, and between them where there are few; shape (T,)."""
    inside = x[POINTS_BEFORE : len(x) - POINTS_AFTER]
    inside = inside[inside >= FIRST_KNOT]
    if len(inside) < 2:
        return inside
    fine = max(1, 60 // len(inside) + 1)
    return np.interp(np.linspace(0, len(inside) - 1, fine * (len(inside) - 1) + 1), np.arange(len(inside)), inside)


@dataclass(frozen=True)
class _Linear:
    """Weighted least squares of one model on one scale."""

    design: FloatArray
    coefficients: FloatArray
    covariance: FloatArray
    rss: float

    @classmethod
    def fit(cls, design: FloatArray, y: FloatArray, sd: FloatArray, phi: float) -> _Linear:
        a, b = whiten(design / sd[:, None], phi), whiten(y / sd, phi)
        coefficients = np.linalg.lstsq(a, b, rcond=None)[0]
        rss = float(((b - a @ coefficients) ** 2).sum())
        variance = rss / max(len(y) - design.shape[1], 1)
        return cls(design, coefficients, np.linalg.pinv(a.T @ a) * variance, rss)

    @property
    def fitted(self) -> FloatArray:
        return self.design @ self.coefficients


def _null_truth(x: FloatArray, scaled: list[_Scaled], gap: FloatArray, phi: float) -> FloatArray:
    """The best curve without an onset, on the gap scale; shape (n,)."""
    best, best_score = gap, -np.inf
    line = np.stack([np.ones_like(x), x], axis=1)
    designs = [line] + [np.column_stack([line, c]) for c, free in transients(x)]
    signs = [True] + [free for _, free in transients(x)]
    for scale in scaled:
        y = scale.data(gap[:, None])[:, 0]
        for design, free in zip(designs, signs, strict=True):
            fit = _Linear.fit(design, y, scale.sd, phi)
            if not free and fit.coefficients[2] < 0:
                continue
            score = -0.5 * len(x) * np.log(fit.rss + 1e-12) - 0.5 * (design.shape[1] + (len(fit.coefficients) > 2)) * np.log(
                len(x)
            )
            if score > best_score:
                best, best_score = scale.back(fit.fitted), score
    return best


def fit_onset(
    x: FloatArray, gap: FloatArray, rng: np.random.Generator, *, replicates: FloatArray | None = None
) -> OnsetFit | None:
    """Fit the model family to one gap curve.

    x: (n,) positions, increasing, in [0, 1]; gap: (n,) finite, unitless; replicates: (n, B) the gap recomputed on
    resampled evaluation batches, whose posteriors are pooled with equal weight. Steps in the result are in units
    of x. None when there is no room for a knot.
    """
    knots = knot_grid(x)
    if len(knots) < 2:
        return None
    gap = tame_outliers(x, gap)
    smooth = smoother(x, max(7, len(x) // 10)) @ gap
    sd = noise_shape(x, gap, np.maximum(smooth, 1e-3))
    scaled = _scales(gap, smooth, sd)
    phi, odds, shapes, log_w = 0.0, 0.0, [], np.empty((0, 1))
    for attempt in range(2):
        grids = [HingeGrid(x, s.sd, phi, knots) for s in scaled]
        weights = [g.weigh(s.data(gap[:, None])) for g, s in zip(grids, scaled, strict=True)]
        shapes = [(s, shape) for g, s in zip(grids, scaled, strict=True) for shape in g.shapes]
        log_w = np.concatenate([w.onset for w in weights])
        odds = float(logsumexp(log_w) - logsumexp([w.none[0] for w in weights]))
        scale, shape = shapes[int(np.argmax(log_w[:, 0]))]
        fit = _Linear.fit(columns(x, shape), scale.data(gap[:, None])[:, 0], scale.sd, phi)
        if attempt == 0:
            phi = memory((scale.data(gap[:, None])[:, 0] - fit.fitted) / scale.sd, fit.design.shape[1])
    truth = _null_truth(x, scaled, gap, phi)
    inflate = np.sqrt(fit.rss / max(len(x) - fit.design.shape[1] - 1, 1))
    noise = inflate * sd[:, None] * ar1_noise(rng, len(x), N_NULL, phi)
    null = [g.weigh(s.simulated(truth, noise)) for g, s in zip(grids, scaled, strict=True)]
    null_odds = logsumexp(np.concatenate([w.onset for w in null]), axis=0) - logsumexp([w.none for w in null], axis=0)
    p_value = float((1 + np.sum(null_odds >= odds)) / (N_NULL + 1))
    if replicates is not None:
        log_w = np.concatenate([g.weigh(s.data(replicates)).onset for g, s in zip(grids, scaled, strict=True)])
    posterior = np.exp(log_w - logsumexp(log_w, axis=0)).mean(axis=1)
    at = np.array([s.knot for _, s in shapes])
    draws = _draw(at, posterior, knots, rng)
    step = float(np.median(draws))
    before, after, rise, rise_se = _rates(x, scale, shape, fit)
    return OnsetFit(
        step, draws, p_value, odds, before, after, rise, rise_se, scale.name, float(np.median(sd) * inflate), phi
    )


def _draw(at: FloatArray, posterior: FloatArray, knots: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Stratified draws from the knot's posterior, spread evenly within its grid cell."""
    mass = np.array([posterior[at == k].sum() for k in knots])
    edges = np.concatenate([knots[:1], 0.5 * (knots[1:] + knots[:-1]), knots[-1:]])
    cdf = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
    return rng.permutation(np.interp((np.arange(DRAWS) + 0.5) / DRAWS, cdf, edges))


def _rates(x: FloatArray, scale: _Scaled, shape: Shape, fit: _Linear) -> tuple[float, float, float, float]:
    start, end = max(x[0], shape.knot - RATE_WINDOW), shape.late_knot or x[-1]
    at = columns(np.array([start, shape.knot, end]), shape)
    y = at @ fit.coefficients
    before, after = (y[1] - y[0]) / max(shape.knot - start, 1e-9), (y[2] - y[1]) / max(end - shape.knot, 1e-9)
    step = at[2] - at[1]
    relative = np.sqrt(max(step @ fit.covariance @ step, 0.0)) / max(abs(y[2] - y[1]), 1e-300)
    rise = float(scale.back(y[2]) - scale.back(y[1]))
    return float(before), float(after), rise, abs(rise) * float(relative)
