"""The scales on which damage may grow in a straight line, and least squares on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.noise import whiten

_SCALES: dict[str, tuple[Callable[..., FloatArray], Callable[..., FloatArray], Callable[..., FloatArray]]] = {
    "gap": (lambda g: g, lambda y: y, np.ones_like),
    "nats": (np.log1p, np.expm1, lambda g: 1.0 / (1.0 + g)),
    "log": (np.log, np.exp, lambda g: 1.0 / g),
}


class Scaled:
    """The curve on one scale, linearised about its smooth so that noise keeps its size.

    name: `gap`, `nats` or `log`; anchor: (n,) smooth gap, positive for `log`; sd: (n,) noise of the gap.
    """

    def __init__(self, name: str, anchor: FloatArray, sd: FloatArray) -> None:
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
        if self.name == "log":
            truth = np.maximum(truth, 0.25 * self.anchor)
        return self.to(truth)[:, None] + self.slope[:, None] * noise


def scales_for(smooth: FloatArray, sd: FloatArray) -> list[Scaled]:
    """Every scale that the curve allows: `log` only if the gap stands clear of noise; smooth, sd: (n,)."""
    out = [Scaled("gap", smooth, sd)]
    if np.all(smooth > -0.5):
        out.append(Scaled("nats", smooth, sd))
    if np.all(smooth > 2.0 * sd):
        out.append(Scaled("log", smooth, sd))
    return out


@dataclass(frozen=True)
class LeastSquares:
    """Weighted least squares of one model on one scale."""

    design: FloatArray
    """Shape (n, k)."""
    coefficients: FloatArray
    """Shape (k,)."""
    covariance: FloatArray
    """Covariance of the coefficients, shape (k, k), scaled by the residuals."""
    rss: float
    """Whitened residual sum of squares, in units of the noise."""

    @classmethod
    def fit(cls, design: FloatArray, y: FloatArray, sd: FloatArray, phi: float) -> LeastSquares:
        """Fit y (n,) with noise levels sd (n,) and AR(1) memory phi."""
        a, b = whiten(design / sd[:, None], phi), whiten(y / sd, phi)
        coefficients: FloatArray = np.asarray(np.linalg.lstsq(a, b, rcond=None)[0], dtype=np.float64)
        rss = float(((b - a @ coefficients) ** 2).sum())
        variance = rss / max(len(y) - design.shape[1], 1)
        covariance = np.asarray(np.linalg.pinv(a.T @ a) * variance, dtype=np.float64)
        return cls(design, coefficients, covariance, rss)

    @property
    def variance(self) -> float:
        """Residual variance relative to the noise levels given."""
        return self.rss / max(len(self.design) - self.design.shape[1] - 1, 1)

    @property
    def fitted(self) -> FloatArray:
        """Fitted values, shape (n,)."""
        return self.design @ self.coefficients
