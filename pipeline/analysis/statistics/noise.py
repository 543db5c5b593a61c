"""Noise of a trajectory, from the trajectory itself: level, shape and memory, of checkpoints and of windows' means.

Neighbouring checkpoints differ by batch order and rounding luck; what is left of a point after the straight
line through its two neighbours measures that luck without assuming any shape of the curve (the
difference-based estimator of Gasser, Sroka and Jennen-Steinmetz, Biometrika 1986).

A window has too few checkpoints to show its own scatter, so the scatter and its memory are those of the whole stretch
of the trajectory about the windows: a cubic of the step with first-order autoregressive noise, fitted by restricted
maximum likelihood (Patterson and Thompson, Biometrika 1971). The memory is not known either: the covariance of the
window means is averaged over :data:`MEMORIES`, weighted by their likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import BoolArray, FloatArray, IntArray

FLOOR = 1e-5
"""Noise is never taken to be smaller than this (relative gap, or nats): below it is float32 rounding."""
HALF_WINDOW = 12
"""Neighbours on either side of a point that show its noise level."""
OUTLIER_SDS = 5.0
"""A point further than this from its neighbours is pulled back to it (loss spikes, evaluation glitches)."""


def pseudo_residuals(x: FloatArray, y: FloatArray) -> FloatArray:
    """Each point minus the line through its neighbours, keeping the variance of noise; shape (n-2,)."""
    left = (x[2:] - x[1:-1]) / (x[2:] - x[:-2])
    right = 1.0 - left
    raw = y[1:-1] - left * y[:-2] - right * y[2:]
    return raw / np.sqrt(1.0 + left**2 + right**2)


def tame_outliers(x: FloatArray, y: FloatArray, replicates: FloatArray | None = None) -> FloatArray:
    """The curve with isolated spikes pulled to OUTLIER_SDS from the median of five neighbours.

    y: (n,). replicates: (n, B), the same curve on resampled text, one to a column: each is tamed by its own medians and
    by the noise of y, and returned in place of y.
    """
    curves = y[:, None] if replicates is None else replicates
    if len(y) >= 9:
        padded = np.pad(curves, ((2, 2), (0, 0)), mode="edge")
        window = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0)
        centre = np.median(window, axis=-1)
        spread = OUTLIER_SDS * local_sd(x, y)[:, None]
        inner = slice(2, -2)
        tamed = np.clip(curves, centre - spread, centre + spread)
        curves = np.concatenate([curves[:2], tamed[inner], curves[-2:]])
    return curves[:, 0] if replicates is None else curves


def local_sd(x: FloatArray, y: FloatArray) -> FloatArray:
    """Noise level around each point from a rolling median of absolute pseudo-residuals; shape (n,)."""
    e = np.abs(pseudo_residuals(x, y))
    width = min(HALF_WINDOW, max(len(e) // 2 - 1, 1))
    padded = np.pad(np.concatenate([e[:1], e, e[-1:]]), width, mode="reflect")
    window = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1)
    return np.maximum(np.median(window, axis=1) / 0.6745, FLOOR)


def smoother(x: FloatArray, neighbours: int) -> FloatArray:
    """Matrix S (n, n) of a local-linear tricube smoother over `neighbours` points: smooth = S @ y."""
    n = len(x)
    k = min(max(neighbours, 3), n)
    distance = np.abs(x[:, None] - x[None, :])
    reach = np.sort(distance, axis=1)[:, k - 1] * 1.001 + 1e-12
    w = np.clip(1.0 - (distance / reach[:, None]) ** 3, 0.0, None) ** 3
    dx = x[None, :] - x[:, None]
    s0, s1, s2 = w.sum(1), (w * dx).sum(1), (w * dx**2).sum(1)
    det = s0 * s2 - s1**2
    flat = det < 1e-12 * s0**2 * reach**2
    out = (s2[:, None] - s1[:, None] * dx) * w / np.where(flat, 1.0, det)[:, None]
    return np.where(flat[:, None], w / s0[:, None], out)


def noise_shape(x: FloatArray, y: FloatArray, level: FloatArray) -> FloatArray:
    """Standard deviation of each point of a gap curve, shape (n,), up to a common factor of about 1.

    The noise is constant, proportional to 1 + gap (constant in nats) or proportional to the gap: the most
    likely of the three given the pseudo-residuals. `level` is a smooth positive version of y.
    """
    e = pseudo_residuals(x, y)
    best, best_score = np.ones_like(y), -np.inf
    shapes: tuple[FloatArray, ...] = (np.ones_like(y), 1.0 + level, level)
    for shape in shapes:
        inner = shape[1:-1]
        sd = float(np.sqrt(np.mean((e / inner) ** 2) + (FLOOR / inner.max()) ** 2))
        score = -len(e) * np.log(sd) - float(np.log(inner).sum())
        if score > best_score + (1.0 if best_score > -np.inf else 0.0):
            best, best_score = np.maximum(shape * sd, FLOOR), score
    return best


def hidden_by_memory(phi: float) -> float:
    """Standard deviation of AR(1) noise over what pseudo-residuals of evenly spaced points show of it.

    Neighbours that are alike move with the point between them: the variance of a pseudo-residual is the noise's times
    1 - (4 phi - phi^2) / 3.
    """
    return float(1.0 / np.sqrt(1.0 - (4.0 * phi - phi**2) / 3.0))


def memory(residual: FloatArray, n_parameters: float) -> float:
    """Lag-1 autocorrelation of fitted residuals, corrected upwards for the fit, within [0, 0.9].

    The correction is Marriott and Pope's (Biometrika 1954), (1 + 3 r) / n, with one more 1 / n for each
    further fitted parameter: a least-squares fit removes slow variation and so hides part of the memory.
    """
    n = len(residual)
    r = float(residual[1:] @ residual[:-1]) / max(float(residual @ residual), 1e-300)
    return float(np.clip(r + (n_parameters + 3 * r) / n, 0.0, 0.9))


def ar1_noise(rng: np.random.Generator, n: int, size: int, phi: float) -> FloatArray:
    """Unit-variance first-order autoregressive noise, shape (n, size)."""
    e = rng.standard_normal((n, size))
    if phi:
        e[1:] *= np.sqrt(1.0 - phi**2)
        for i in range(1, n):
            e[i] += phi * e[i - 1]
    return e


def whiten(values: FloatArray, phi: float) -> FloatArray:
    """Turn AR(1) rows into white ones (Prais-Winsten); shape (n, ...) kept, unit variance kept."""
    if not phi:
        return values
    out = (values - phi * np.roll(values, 1, axis=0)) / np.sqrt(1.0 - phi**2)
    out[0] = values[0]
    return out


MEMORIES = np.linspace(0.0, 0.95, 20)
"""Correlations of neighbouring checkpoints that are tried, all as likely before the data."""
DEGREE = 3
"""Degree of the polynomial that the course of the gap is taken for."""


@dataclass(frozen=True, eq=False)
class WindowNoise:
    """Luck of checkpoints in the means of some windows."""

    covariance: FloatArray
    """(windows, windows), in squared units of the curve."""
    memory: float
    """Mean correlation of neighbouring checkpoints."""
    df: float
    """Degrees of freedom of the covariance: independent checkpoints less the parameters of the course."""


def window_noise(step: IntArray, values: FloatArray, windows: list[BoolArray]) -> WindowNoise:
    """``step``, ``values`` and each of ``windows``: (n,), all finite, at least two checkpoints to a window."""
    n = len(values)
    design = _course(step)
    means = np.array([window / window.sum() for window in windows], dtype=float)
    distance = np.abs(np.subtract.outer(step, step)) / np.median(np.diff(step))
    scores, covariances = [], []
    for memory in MEMORIES:
        correlation = memory**distance if memory else np.eye(n)
        root = np.linalg.cholesky(correlation)
        x, y = np.linalg.solve(root, design), np.linalg.solve(root, values)
        q, r = np.linalg.qr(x)
        left = y - q @ (q.T @ y)
        df = n - design.shape[1]
        variance = max(float(left @ left) / df, np.finfo(float).tiny)
        volume = np.log(np.diag(root)).sum() + np.log(np.abs(np.diag(r))).sum()
        scores.append(-volume - df / 2 * np.log(variance))
        covariances.append(variance * means @ correlation @ means.T)
    weights = np.exp(np.array(scores) - max(scores))
    weights /= weights.sum()
    memory = float(weights @ MEMORIES)
    independent = n * (1 - memory) / (1 + memory)
    return WindowNoise(
        np.tensordot(weights, np.array(covariances), axes=1), memory, max(2.0, independent - design.shape[1])
    )


def _course(step: IntArray) -> FloatArray:
    """Orthogonal polynomials of the step, (n, parameters): fewer where there are fewer than nine checkpoints."""
    degree = max(0, min(DEGREE, (len(step) - 3) // 2))
    scaled = 2 * (step - step[0]) / (step[-1] - step[0]) - 1
    return np.polynomial.legendre.legvander(scaled, degree)
