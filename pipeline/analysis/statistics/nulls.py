"""Curves without an onset: the best one for given data, and how often its like looks as strong as the data.

The p-value is a parametric bootstrap (no asymptotics, because a knot does not exist under the null), drawn one after
the other until N_STOP curves without an onset were as strong (Besag and Clifford, "Sequential Monte Carlo p-values",
Biometrika 1991): curves that are nothing special are done after a few dozen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.hinges import transients
from pipeline.analysis.statistics.noise import ar1_noise
from pipeline.analysis.statistics.scales import LeastSquares, Scaled

N_NULL = 199
"""Simulated curves without an onset, at most."""
N_STOP = 10
"""The simulation ends after this many curves that are as strong."""
FIRST_LOOK = 39
"""Curves simulated before the first check."""


def best_without_onset(
    x: FloatArray, scaled: list[Scaled], gap: FloatArray, phi: float, answers: FloatArray
) -> FloatArray:
    """The best curve without an onset (lowest BIC), on the gap scale; shape (n,).

    answers: (n, F) responses to the learning rate that such a curve may hold; F = 0: curves of time alone.
    """
    line = np.stack([np.ones_like(x), x], axis=1)
    shapes = transients(x)
    # (design, columns whose coefficient must be positive, parameters: a time constant or an exponent was chosen too)
    candidates: list[tuple[FloatArray, tuple[int, ...], int]] = [
        (line, (), 2),
        (np.column_stack([line, x**2]), (2,), 3),
        *((np.column_stack([line, c]), () if free else (2,), 4) for c, free in shapes),
    ]
    for f in answers.T:
        candidates.append((np.column_stack([line, f]), (2,), 3))
        candidates += [(np.column_stack([line, f, c]), (2,) if free else (2, 3), 5) for c, free in shapes]
    best, best_score = gap, -np.inf
    for scale in scaled:
        y = scale.data(gap[:, None])[:, 0]
        for design, rising, n_parameters in candidates:
            fit = LeastSquares.fit(design, y, scale.sd, phi)
            if any(fit.coefficients[column] < 0 for column in rising):
                continue
            score = -0.5 * len(x) * np.log(fit.rss + 1e-12) - 0.5 * n_parameters * np.log(len(x))
            if score > best_score:
                best, best_score = scale.back(fit.fitted), score
    return best


def sequential_p(
    evidence: Callable[[FloatArray], FloatArray],
    observed: float,
    noise_like: tuple[FloatArray, float],
    rng: np.random.Generator,
    n_null: int,
) -> float:
    """Share of curves without an onset whose evidence is at least the observed one.

    evidence: noise (n, B) on the curve without an onset -> its evidence (B,); noise_like: standard deviations (n,) and
    memory of that noise.
    """
    sd, phi = noise_like
    strong = np.empty(0, dtype=bool)
    for size in (min(FIRST_LOOK, n_null), n_null - FIRST_LOOK):
        if size > 0:
            noise = sd[:, None] * ar1_noise(rng, len(sd), size, phi)
            strong = np.append(strong, evidence(noise) >= observed)
        reached = np.flatnonzero(np.cumsum(strong) >= N_STOP)
        if len(reached):
            return float(N_STOP / (reached[0] + 1))
    return float((1 + strong.sum()) / (len(strong) + 1))
