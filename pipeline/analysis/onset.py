"""Where a gap curve's growth rate jumps up, how sure that is, and whether it happens at all.

The family of `hinges` is fitted on three scales (gap, nats = log(1 + gap), log gap) with the noise of the gap
propagated to each, so that "growth rate" can mean gap per step or per cent per step: a gap that grows
steadily on any one of the three needs no onset. The evidence is the log posterior odds of all models with an
onset against all without; its null distribution is simulated from the best curve without one, with the noise
level, shape and memory found here (a parametric bootstrap: no asymptotics, because a knot does not exist
under the null).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from pipeline.analysis.curves import FloatArray
from pipeline.analysis.hinges import HingeGrid, Shape, columns, transients
from pipeline.analysis.noise import ar1_noise, memory, noise_shape, smoother, tame_outliers
from pipeline.analysis.scales import LeastSquares, Scaled, scales_for

FIRST_KNOT = 0.1
"""No onset is looked for in the first 10 % of the run (the early transient)."""
MIN_POINTS = 12
"""With fewer checkpoints a kink cannot be told from a curve at any realistic noise."""
POINTS_BEFORE, POINTS_AFTER = 4, 3
"""Checkpoints needed on either side of an onset."""
N_NULL = 199
"""Simulated null curves."""
RATE_WINDOW = 0.25
"""Growth before the onset is averaged over at most this share of the run."""
DRAWS = 2000
"""Posterior draws kept of the onset, for differences with other events."""


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


def knot_grid(x: FloatArray) -> FloatArray:
    """Places tried for an onset: every checkpoint in range, and between them if there are few; shape (T,)."""
    inside = x[POINTS_BEFORE : len(x) - POINTS_AFTER]
    inside = inside[inside >= FIRST_KNOT]
    if len(inside) < 2:
        return inside
    fine = max(1, 60 // len(inside) + 1)
    return np.interp(
        np.linspace(0, len(inside) - 1, fine * (len(inside) - 1) + 1), np.arange(len(inside)), inside
    )


@dataclass(frozen=True)
class _Family:
    """All models on all scales for fixed noise and memory, and the best one with an onset."""

    grids: list[HingeGrid]
    scaled: list[Scaled]
    log_weights: FloatArray
    """(m, 1), each model with an onset."""
    odds: float
    scale: Scaled
    shape: Shape
    fit: LeastSquares

    @classmethod
    def fit_to(
        cls, x: FloatArray, gap: FloatArray, scaled: list[Scaled], phi: float, knots: FloatArray
    ) -> _Family:
        """Weigh every model for one gap curve (n,)."""
        grids = [HingeGrid(x, s.sd, phi, knots) for s in scaled]
        log_weights, odds = _weigh(grids, [s.data(gap[:, None]) for s in scaled])
        models = [(s, shape) for g, s in zip(grids, scaled, strict=True) for shape in g.shapes]
        scale, shape = models[int(np.argmax(log_weights[:, 0]))]
        fit = LeastSquares.fit(columns(x, shape), scale.data(gap[:, None])[:, 0], scale.sd, phi)
        return cls(grids, scaled, log_weights, float(odds[0]), scale, shape, fit)

    def memory_of(self, gap: FloatArray) -> float:
        """AR(1) memory of what the best model leaves."""
        residual = (self.scale.data(gap[:, None])[:, 0] - self.fit.fitted) / self.scale.sd
        return memory(residual, self.fit.design.shape[1])

    def knots_of_models(self) -> FloatArray:
        """Knot of each row of `log_weights`, shape (m,)."""
        return np.array([shape.knot for g in self.grids for shape in g.shapes])


def _weigh(grids: list[HingeGrid], curves_nb: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Log weights (m, B) of the models with an onset and log odds (B,) of all those against all without."""
    weights = [g.weigh(y) for g, y in zip(grids, curves_nb, strict=True)]
    onset = np.concatenate([w.onset for w in weights])
    return onset, logsumexp(onset, axis=0) - logsumexp([w.none for w in weights], axis=0)


def _null_truth(x: FloatArray, scaled: list[Scaled], gap: FloatArray, phi: float) -> FloatArray:
    """The best curve without an onset, on the gap scale; shape (n,)."""
    line = np.stack([np.ones_like(x), x], axis=1)
    candidates: list[tuple[FloatArray, bool]] = [(line, True), (np.column_stack([line, x**2]), False)]
    candidates += [(np.column_stack([line, c]), free) for c, free in transients(x)]
    best, best_score = gap, -np.inf
    for scale in scaled:
        y = scale.data(gap[:, None])[:, 0]
        for design, free in candidates:
            fit = LeastSquares.fit(design, y, scale.sd, phi)
            if not free and fit.coefficients[2] < 0:
                continue
            n_parameters = design.shape[1] + (
                design.shape[1] > 2
            )  # a transient's time constant was chosen too
            score = -0.5 * len(x) * np.log(fit.rss + 1e-12) - 0.5 * n_parameters * np.log(len(x))
            if score > best_score:
                best, best_score = scale.back(fit.fitted), score
    return best


def fit_onset(
    x: FloatArray, gap: FloatArray, rng: np.random.Generator, *, replicates: FloatArray | None = None
) -> OnsetFit | None:
    """Fit the model family to one gap curve.

    x: (n,) positions, increasing, in [0, 1]; gap: (n,) finite, unitless; replicates: (n, B) the gap
    recomputed on resampled evaluation batches, whose posteriors are pooled with equal weight. Steps in the
    result are in units of x. None when there is no room for a knot, or no growth that speeds up fits at all.
    """
    knots = knot_grid(x)
    if len(x) < MIN_POINTS or len(knots) < 2:
        return None
    gap = tame_outliers(x, gap)
    smooth = smoother(x, max(7, len(x) // 10)) @ gap
    sd = noise_shape(x, gap, np.maximum(smooth, 1e-3))
    first = _Family.fit_to(x, gap, scales_for(smooth, sd), 0.0, knots)
    phi = first.memory_of(gap)
    family = _Family.fit_to(x, gap, scales_for(first.scale.back(first.fit.fitted), sd), phi, knots)
    if not np.isfinite(family.odds):
        return None
    sd = sd * np.sqrt(family.fit.variance)
    truth = _null_truth(x, family.scaled, gap, phi)
    noise = sd[:, None] * ar1_noise(rng, len(x), N_NULL, phi)
    _, null_odds = _weigh(family.grids, [s.simulated(truth, noise) for s in family.scaled])
    log_w = family.log_weights
    if replicates is not None:
        log_w, _ = _weigh(family.grids, [s.data(replicates) for s in family.scaled])
        log_w = log_w[:, np.isfinite(log_w.max(axis=0))]
    posterior = np.exp(log_w - logsumexp(log_w, axis=0)).mean(axis=1)
    draws = _draw(family.knots_of_models(), posterior, knots, rng)
    before, after, rise, rise_se = _rates(x, family.scale, family.shape, family.fit)
    return OnsetFit(
        step=float(np.median(draws)),
        draws=draws,
        p_value=float((1 + np.sum(null_odds >= family.odds)) / (N_NULL + 1)),
        log_odds=family.odds,
        rate_before=before,
        rate_after=after,
        rise=rise,
        rise_se=rise_se,
        scale=family.scale.name,
        noise_sd=float(np.median(sd)),
        noise_memory=phi,
    )


def _draw(at: FloatArray, posterior: FloatArray, knots: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Stratified draws from the knot's posterior, spread evenly within its grid cell."""
    mass = np.array([posterior[at == k].sum() for k in knots])
    edges = np.concatenate([knots[:1], 0.5 * (knots[1:] + knots[:-1]), knots[-1:]])
    cdf = np.concatenate([[0.0], np.cumsum(mass) / mass.sum()])
    return rng.permutation(np.interp((np.arange(DRAWS) + 0.5) / DRAWS, cdf, edges))


def _rates(
    x: FloatArray, scale: Scaled, shape: Shape, fit: LeastSquares
) -> tuple[float, float, float, float]:
    start, end = max(x[0], shape.knot - RATE_WINDOW), shape.late_knot or x[-1]
    at = columns(np.array([start, shape.knot, end]), shape)
    y = at @ fit.coefficients
    unbent = 3 if shape.transient >= 0 else 2
    earlier = at[:2, :unbent] @ fit.coefficients[:unbent]
    before = (earlier[1] - earlier[0]) / max(shape.knot - start, 1e-9)
    after = (y[2] - y[1]) / max(end - shape.knot, 1e-9)
    step = at[2] - at[1]
    relative = np.sqrt(max(step @ fit.covariance @ step, 0.0)) / max(abs(y[2] - y[1]), 1e-300)
    rise = float(scale.back(y[2]) - scale.back(y[1]))
    return float(before), float(after), rise, abs(rise) * float(relative)
