"""All one-knot models of a curve at once: their residual sums of squares for many data sets in one product.

A model is: straight line [+ one early transient] [+ one bend at a knot]. Bends upwards are candidate onsets;
no bend, and bends downwards, are the curves without one. A straight line [+ one early transient] + a response to the
learning rate is without one too, and is kept apart. By Gram-Schmidt every model's gain over the line is
the square of one or two inner products with fixed unit vectors, so a thousand bootstrap curves cost one
matrix product.

Weights are BIC approximations to posterior model probabilities (Schwarz, Ann. Stat. 1978; the mixture is
Bayesian model averaging, Hoeting et al., Stat. Sci. 1999): RSS^(-n/2) n^(-k/2) prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import BoolArray, FloatArray
from pipeline.analysis.statistics.noise import whiten

FAST_TRANSIENTS = (0.02, 0.05, 0.12)
"""Time constants, as shares of the run, of early transients in either direction."""
SLOW_TRANSIENTS = (0.25, 0.5)
"""Time constants of saturating growth (upwards only: a slow decay that ends would look like an onset)."""
PRIOR_TRANSIENT = 0.5
"""Prior weight of all transients together."""
HUMPS = (0.02, 0.05)
"""Places, as shares of the run, of an early hump or dip that passes."""
STARTS = {"kink": 0.65, "soft": 0.1, "softer": 0.1, "quadratic": 0.05}
"""Prior weight of the ways in which growth can start; those but the kink are tried without a transient."""
SOFT_WIDTHS = {"soft": 0.02, "softer": 0.05}
"""Width of a soft-plus start, as a share of the run; its knot is its middle."""
PRIOR_LATE_BEND = 0.1
"""Prior weight of an onset whose growth slows again at a later knot."""
LATE_BENDS = 12
"""Number of places tried for the later knot."""


@dataclass(frozen=True)
class Shape:
    """One model of the family: which columns it has."""

    transient: int
    """Index into `transients`, -1 for none."""
    start: str
    """Key of STARTS."""
    knot: float
    late_knot: float | None = None


def transients(x: FloatArray) -> list[tuple[FloatArray, bool]]:
    """Columns of shape (n,) over x in [0, 1], and whether either sign is allowed (else only concave)."""
    columns: list[tuple[FloatArray, bool]] = [(1.0 - np.exp(-x / t), True) for t in FAST_TRANSIENTS]
    columns += [(x / t * np.exp(1.0 - x / t), True) for t in HUMPS]
    columns += [(1.0 - np.exp(-x / t), False) for t in SLOW_TRANSIENTS]
    return [*columns, (np.sqrt(x), False), (np.log1p(x / 0.01), False)]


def bend(x: FloatArray, knot: FloatArray | float, start: str) -> FloatArray:
    """How growth starts at the knot: 0 before, rising after; broadcasts x against knot."""
    if start in SOFT_WIDTHS:
        return SOFT_WIDTHS[start] * np.logaddexp(0.0, (x - knot) / SOFT_WIDTHS[start])
    return np.maximum(x - knot, 0.0) ** (2 if start == "quadratic" else 1)


def columns(x: FloatArray, shape: Shape) -> FloatArray:
    """Design matrix (n, k) of one model: 1, x, [transient], bend, [late bend]."""
    parts = [np.ones_like(x), x]
    if shape.transient >= 0:
        parts.append(transients(x)[shape.transient][0])
    parts.append(bend(x, shape.knot, shape.start))
    if shape.late_knot is not None:
        parts.append(np.maximum(x - shape.late_knot, 0.0))
    return np.stack(parts, axis=1)


@dataclass(frozen=True)
class SegmentWeights:
    """Log weights for B data sets (up to one constant per data set)."""

    none: FloatArray
    """(B,) all models of time alone without an onset."""
    response: FloatArray
    """(B,) all models with a response to the learning rate, -inf where there is none."""
    onset: FloatArray
    """(m, B) each model with one."""


def _unit(v: FloatArray) -> tuple[FloatArray, FloatArray]:
    norm = np.sqrt((v**2).sum(0))
    ok = norm > 1e-9
    return np.where(ok, v / np.where(ok, norm, 1.0), 0.0), norm


def _log(  # noqa: PLR0917
    gain: FloatArray, total: FloatArray, n: int, k: int, prior: float, allowed: BoolArray
) -> FloatArray:
    """Log weight of models that take `gain` off `total`; -inf where not allowed."""
    rest = np.maximum(total - gain, 1e-12 * total + n * 1e-12)
    return np.where(allowed, -0.5 * n * np.log(rest) - 0.5 * k * np.log(n) + np.log(prior), -np.inf)


class HingeGrid:
    """The model family on fixed points, noise levels and memory; see the module docstring.

    x: (n,) positions in [0, 1]; sd: (n,) noise levels of the data; phi: AR(1) memory; knots: (T,) places
    tried; answers: (n, F) responses to the learning rate.
    """

    def __init__(
        self, x: FloatArray, sd: FloatArray, phi: float, knots: FloatArray, answers: FloatArray | None = None
    ) -> None:
        self.x, self.sd, self.phi, self.knots = x, sd, phi, knots
        self.n = len(x)
        self.base, _ = np.linalg.qr(self._white(np.stack([np.ones_like(x), x], axis=1)))
        self.bends = {s: _unit(self._clean(bend(x[:, None], knots[None, :], s)))[0] for s in STARTS}
        self.answers, _ = _unit(self._clean(np.empty((self.n, 0)) if answers is None else answers))
        self.late_at = np.quantile(x, np.linspace(0.2, 0.95, LATE_BENDS))
        self.shapes = self._shapes()

    def _white(self, columns_nk: FloatArray) -> FloatArray:
        return whiten(columns_nk / self.sd[:, None], self.phi)

    def _clean(self, columns_nk: FloatArray) -> FloatArray:
        white = self._white(columns_nk)
        return white - self.base @ (self.base.T @ white)

    def _pairs(self) -> list[tuple[int, int]]:
        """(knot, late knot) index pairs with at least 5 % of the run between them."""
        return [
            (i, j)
            for j, late in enumerate(self.late_at)
            for i, k in enumerate(self.knots)
            if k + 0.05 <= late
        ]

    def _shapes(self) -> list[Shape]:
        shapes = [
            Shape(j, start, float(k))
            for start in STARTS
            for j in range(-1, len(transients(self.x)) if start == "kink" else 0)
            for k in self.knots
        ]
        return shapes + [
            Shape(-1, "kink", float(self.knots[i]), float(self.late_at[j])) for i, j in self._pairs()
        ]

    def weigh(self, y_nb: FloatArray) -> SegmentWeights:
        """Weights of every model for each column of y, shape (n, B), in the units of sd."""
        z = self._clean(y_nb)
        total = (z**2).sum(0)
        n, t = self.n, len(self.knots)
        every = np.ones(y_nb.shape[1], dtype=bool)
        plain = 1 - PRIOR_TRANSIENT
        none = [_log(np.zeros_like(total), total, n, 2, plain, every)]
        steady = _unit(self._clean(self.x[:, None] ** 2))[0][:, 0] @ z
        none.append(_log(steady**2, total, n, 3, plain, steady > 0))
        onset: list[FloatArray] = []
        for start, prior in STARTS.items():
            beta = self.bends[start].T @ z  # (T, B)
            onset.append(_log(beta**2, total, n, 4, plain * prior / t, beta > 0))
            if start == "kink":
                none += list(_log(beta**2, total, n, 4, plain / t, beta <= 0))
                for column, free in transients(self.x):
                    alone, up, down = self._with_transient(self._clean(column[:, None]), free, beta, z, total)
                    none += [alone, *down]
                    onset.append(up + np.log(prior))
        onset.append(self._late(z, total))
        return SegmentWeights(
            np.logaddexp.reduce(np.stack(none), axis=0), self._response(z, total), np.concatenate(onset)
        )

    def _response(self, z: FloatArray, total: FloatArray) -> FloatArray:
        """Log weight (B,) of a line and a rising response to the rate, alone or with one transient."""
        n, f = self.n, self.answers.shape[1]
        if not f:
            return np.full_like(total, -np.inf)
        beta = self.answers.T @ z  # (F, B)
        models = [_log(beta**2, total, n, 3, (1 - PRIOR_TRANSIENT) / f, beta > 0)]
        shapes = transients(self.x)
        for column, free in shapes:
            own = _unit(self._clean(column[:, None]))[0]
            along = (self.answers.T @ own)[:, 0]
            w, norm = _unit(self.answers - own * along)
            gamma, alone = w.T @ z, (own.T @ z)[0]
            sign = alone - along[:, None] * gamma / np.where(norm > 0, norm, 1.0)[:, None]
            fits = (gamma > 0) & (norm > 1e-3)[:, None] & (free | (sign > 0))
            models.append(_log(gamma**2 + alone**2, total, n, 5, PRIOR_TRANSIENT / len(shapes) / f, fits))
        return np.asarray(np.logaddexp.reduce(np.concatenate(models), axis=0))

    def _with_transient(
        self, column: FloatArray, free: bool, beta: FloatArray, z: FloatArray, total: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Log weights with one transient (n, 1): no bend (B,), bend upwards, bend downwards (T, B)."""
        n, t, u = self.n, len(self.knots), self.bends["kink"]
        prior = PRIOR_TRANSIENT / len(transients(self.x))
        own, own_norm = _unit(column)
        single = own[:, 0] @ z
        alone = _log(single**2, total, n, 4, prior, free | (single > 0))
        along = u.T @ column  # (T, 1)
        w, norm = _unit(column - u * along[:, 0])
        gamma = w.T @ z
        fits = (norm > 1e-3 * own_norm)[:, None] & (free | (gamma > 0))
        up = beta - gamma / np.where(norm > 0, norm, 1.0)[:, None] * along > 0
        gain = beta**2 + gamma**2
        both = _log(gain, total, n, 6, prior / t, fits)
        return alone, np.where(up, both, -np.inf), np.where(up, -np.inf, both)

    def _late(self, z: FloatArray, total: FloatArray) -> FloatArray:
        pairs = self._pairs()
        if not pairs:
            return np.empty((0, z.shape[1]))
        first, second = (np.array(p) for p in zip(*pairs, strict=True))
        late = self._clean(np.maximum(self.x[:, None] - self.late_at[None, :], 0.0))
        u = self.bends["kink"][:, first]
        along = (self.bends["kink"].T @ late)[first, second]
        v, norm = _unit(late[:, second] - u * along)
        beta, gamma = (self.bends["kink"].T @ z)[first], v.T @ z
        up = beta - gamma / np.where(norm > 0, norm, 1.0)[:, None] * along[:, None] > 0
        prior = (1 - PRIOR_TRANSIENT) * PRIOR_LATE_BEND / len(pairs)
        return _log(beta**2 + gamma**2, total, self.n, 6, prior, up & (gamma < 0))
