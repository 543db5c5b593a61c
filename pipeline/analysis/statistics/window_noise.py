"""Noise of a window's mean from the scatter of single checkpoints.

A window has too few checkpoints to show its own scatter, so the scatter and its memory are those of the whole stretch
of the trajectory about the windows: a cubic of the step with first-order autoregressive noise, fitted by restricted
maximum likelihood (Patterson and Thompson, Biometrika 1971). The memory is not known either: the covariance of the
window means is averaged over :data:`MEMORIES`, weighted by their likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import BoolArray, FloatArray, IntArray

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
