"""Fit the onset: where a gap curve's growth rate jumps up, with its evidence.

The family of `hinges` is fitted on three scales (gap, nats = log(1 + gap), log gap) with the noise of the gap
propagated to each, so that "growth rate" can mean gap per step or per cent per step: a gap that grows
steadily on any one of the three needs no onset. The evidence is the log posterior odds of all models with an
onset against all without; its null distribution is simulated from the best curve without one, with the noise
level, shape and memory found here (`nulls`).

Two tests are made: whether it is more than curves of time alone give (`p_onset`) and, if the learning rate is
known, more than responses to the rate give (`p_beyond_rate`), which are then among the curves without an onset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.hinges import HingeGrid, Shape, columns
from pipeline.analysis.statistics.noise import memory, noise_shape, smoother, tame_outliers
from pipeline.analysis.statistics.nulls import N_NULL, best_without_onset, sequential_p
from pipeline.analysis.statistics.scales import LeastSquares, Scaled, scales_for
from pipeline.analysis.trajectory.rate_response import responses

FIRST_KNOT = 0.1
"""No onset is looked for in the first 10 % of the run (the early transient)."""
MIN_POINTS = 12
"""With fewer checkpoints a kink cannot be distinguished from a curve at realistic noise."""
POINTS_BEFORE, POINTS_AFTER = 4, 2
"""Checkpoints needed on either side of an onset."""
LAST_KNOT_SHARE = 0.1
"""With more of the posterior at the last place tried, the onset may as well lie after it."""
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
    p_onset: float
    """Share of simulated curves of time alone, without an onset, whose evidence is at least as strong."""
    p_beyond_rate: float | None
    """The same with responses to the learning rate among the curves without an onset; None where no rate is known."""
    rate_log_odds: float | None
    """Log posterior odds of a response to the rate against time alone, both without an onset; None without one."""
    or_later: bool
    """Whether the onset may as well lie after the last place tried."""
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
class _Odds:
    """Log posterior odds (B,) of all models with an onset, against those without."""

    time: FloatArray
    """Odds against models of time alone."""
    rate: FloatArray
    """Odds against models of time alone or with a response to the learning rate."""
    response: FloatArray
    """Odds of a response to the rate against time alone, both without an onset; -inf if there is no response."""


def _weigh(grids: list[HingeGrid], curves_nb: list[FloatArray]) -> tuple[FloatArray, _Odds]:
    """Log weights (m, B) of the models with an onset, and the odds."""
    weights = [g.weigh(y) for g, y in zip(grids, curves_nb, strict=True)]
    onset = np.concatenate([w.onset for w in weights])
    every = np.logaddexp.reduce(np.stack([np.logaddexp.reduce(w.onset, axis=0) for w in weights]), axis=0)
    none = np.logaddexp.reduce(np.stack([w.none for w in weights]), axis=0)
    response = np.logaddexp.reduce(np.stack([w.response for w in weights]), axis=0)
    return onset, _Odds(every - none, every - np.logaddexp(none, response), response - none)


@dataclass(frozen=True)
class _Family:
    """All models on all scales for fixed noise and memory, and the best one with an onset."""

    grids: list[HingeGrid]
    answers: FloatArray
    """Responses to the learning rate, (n, F)."""
    scaled: list[Scaled]
    log_weights: FloatArray
    """(m, 1), each model with an onset."""
    odds: _Odds
    scale: Scaled
    shape: Shape
    fit: LeastSquares

    @classmethod
    def fit_to(
        cls,
        x: FloatArray,
        gap: FloatArray,
        scaled: list[Scaled],
        phi: float,
        knots: FloatArray,
        *,
        answers: FloatArray,
    ) -> _Family:
        """Weigh every model for one gap curve (n,); answers: (n, F) responses to the learning rate."""
        grids = [HingeGrid(x, s.sd, phi, knots, answers) for s in scaled]
        log_weights, odds = _weigh(grids, [s.data(gap[:, None]) for s in scaled])
        which, model = divmod(int(np.argmax(log_weights[:, 0])), len(grids[0].shapes))
        scale, shape = scaled[which], grids[which].shapes[model]
        fit = LeastSquares.fit(columns(x, shape), scale.data(gap[:, None])[:, 0], scale.sd, phi)
        return cls(grids, answers, scaled, log_weights, odds, scale, shape, fit)

    def memory_of(self, gap: FloatArray) -> float:
        """AR(1) memory of what the best model leaves."""
        residual = (self.scale.data(gap[:, None])[:, 0] - self.fit.fitted) / self.scale.sd
        return memory(residual, self.fit.design.shape[1])

    def knots_of_models(self) -> FloatArray:
        """Knot of each row of `log_weights`, shape (m,)."""
        return np.tile([shape.knot for shape in self.grids[0].shapes], len(self.grids))

    def odds_of(self, truth: FloatArray, noise: FloatArray) -> _Odds:
        """The odds of noise (n, B) about a true gap (n,)."""
        return _weigh(self.grids, [s.simulated(truth, noise) for s in self.scaled])[1]


def fit_onset(
    x: FloatArray,
    gap: FloatArray,
    rng: np.random.Generator,
    *,
    rate: FloatArray | None = None,
    replicates: FloatArray | None = None,
    n_null: int = N_NULL,
) -> OnsetFit | None:
    """Fit the model family to one gap curve.

    x: (n,) positions, increasing, in [0, 1]; gap: (n,) finite, unitless; rate: (n,) learning rate over its peak
    (`rate_response.relative_rate`); replicates: (n, B) the gap recomputed on resampled evaluation batches, whose
    posteriors are pooled with equal weight; n_null: simulated curves without an onset, at most. Steps in the result are
    in units of x. None when there is no room for a knot, or no growth that speeds up fits at all.
    """
    knots = knot_grid(x)
    if len(x) < MIN_POINTS or len(knots) < 2:
        return None
    if replicates is not None:
        replicates = tame_outliers(x, gap, replicates)
    gap = tame_outliers(x, gap)
    answers = np.empty((len(x), 0)) if rate is None else responses(rate)
    smooth = smoother(x, max(7, len(x) // 10)) @ gap
    sd = noise_shape(x, gap, np.maximum(smooth, 1e-3))
    first = _Family.fit_to(x, gap, scales_for(smooth, sd), 0.0, knots, answers=answers)
    phi = first.memory_of(gap)
    scaled = scales_for(first.scale.back(first.fit.fitted), sd)
    family = _Family.fit_to(x, gap, scaled, phi, knots, answers=answers)
    if not np.isfinite(family.odds.time[0]):
        return None
    sd = sd * np.sqrt(family.fit.variance)
    p_onset, p_beyond = _p_values(family, gap, (sd, phi), rng, n_null)
    log_w = family.log_weights
    if replicates is not None:
        log_w, _ = _weigh(family.grids, [s.data(replicates) for s in family.scaled])
        log_w = log_w[:, np.isfinite(log_w.max(axis=0))]
    posterior = np.exp(log_w - logsumexp(log_w, axis=0)).mean(axis=1)
    at = family.knots_of_models()
    draws = _draw(at, posterior, knots, rng)
    before, after, rise, rise_se = _rates(x, family.scale, family.shape, family.fit)
    last = x[len(x) - POINTS_AFTER - 2 : len(x) - POINTS_AFTER].mean()
    return OnsetFit(
        step=float(np.median(draws)),
        draws=draws,
        p_onset=p_onset,
        p_beyond_rate=None if rate is None else p_beyond,
        rate_log_odds=float(family.odds.response[0]) if answers.shape[1] else None,
        or_later=bool(posterior[at >= last].sum() > LAST_KNOT_SHARE * posterior.sum()),
        rate_before=before,
        rate_after=after,
        rise=rise,
        rise_se=rise_se,
        scale=family.scale.name,
        noise_sd=float(np.median(sd)),
        noise_memory=phi,
    )


def _p_values(
    family: _Family,
    gap: FloatArray,
    noise_like: tuple[FloatArray, float],
    rng: np.random.Generator,
    n_null: int,
) -> tuple[float, float]:
    """P against time alone, and against time and responses to the rate: the same where the rate never falls."""
    x, answers, odds = family.grids[0].x, family.answers, family.odds
    alone = best_without_onset(x, family.scaled, gap, noise_like[1], answers[:, :0])
    p_onset = sequential_p(
        lambda noise: family.odds_of(alone, noise).time, float(odds.time[0]), noise_like, rng, n_null
    )
    if not answers.shape[1]:
        return p_onset, p_onset
    either = best_without_onset(x, family.scaled, gap, noise_like[1], answers)
    p_beyond = sequential_p(
        lambda noise: family.odds_of(either, noise).rate, float(odds.rate[0]), noise_like, rng, n_null
    )
    return p_onset, p_beyond


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
