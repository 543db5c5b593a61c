"""Damage of one variant and of its controls at every checkpoint, batch by batch, and the three factors of it.

D = Q(W) - W over all quantized weights of the variant; f(a) = L(W + a D) - L(W); n(s) = L(W + N_s) - L(W), where N_s is
D with independent random signs of seed s. Then, exactly,

    f(1) = error_size x sensitivity x alignment,
    error_size = (||D|| / ||W||)^2, sensitivity = mean_s n(s) / error_size, alignment = f(1) / mean_s n(s).

Legend of shapes: T = checkpoints, S = seeds of random signs, B = batches of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.analysis.statistics.curves import BoolArray, FloatArray, IntArray

FACTORS = ("error_size", "sensitivity", "alignment")
"""Names of the three factors, in their order."""


@dataclass(frozen=True, eq=False)
class ControlLosses:
    """Losses of one variant and its controls. Damages are in nats per token, NaN if a loss is not finite."""

    variant: str
    """Column prefix."""
    step: IntArray
    """(T,)"""
    error_size: FloatArray
    """(T,), unitless."""
    fp32_TB: FloatArray  # noqa: N815
    """Losses of the stored weights, nats per token, (T, B)."""
    damage_TB: FloatArray  # noqa: N815
    """f(1), (T, B)."""
    signs_TSB: FloatArray  # noqa: N815
    """n(s), (T, S, B)."""
    line_TB: Mapping[float, FloatArray] = field(default_factory=dict)  # noqa: N815
    """f(a) by a other than 1, each (T, B)."""
    distinct: BoolArray | None = None
    """False where a checkpoint repeats the weights of an earlier one, (T,)."""

    @property
    def damage(self) -> FloatArray:
        """f(1), (T,)."""
        return self.damage_TB.mean(axis=1)

    @property
    def noise(self) -> FloatArray:
        """Mean of n(s), (T,)."""
        return self.signs_TSB.mean(axis=(1, 2))

    def factors(self) -> dict[str, FloatArray]:
        """The three factors by name, each (T,); their product is the damage."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return dict(
                zip(
                    FACTORS,
                    (self.error_size, self.noise / self.error_size, self.damage / self.noise),
                    strict=True,
                )
            )

    @property
    def usable(self) -> BoolArray:
        """Checkpoints whose three factors are finite and that are no repeat, (T,)."""
        found = np.stack(list(self.factors().values()))
        finite: BoolArray = np.all(np.isfinite(found), axis=0) & (self.error_size > 0)
        return finite if self.distinct is None else finite & self.distinct

    def even_TB(self) -> FloatArray | None:  # noqa: N802
        """(f(1) + f(-1)) / 2: free of the first-order term, the accident of rounding; (T, B). None without f(-1)."""
        return None if -1.0 not in self.line_TB else (self.damage_TB + self.line_TB[-1.0]) / 2

    def parabola_share(self) -> FloatArray | None:
        """Prediction of f(1) by the parabola through f(-1/2), f(0), f(1/2), over f(1); (T,). None without them.

        slope + curvature / 2, with slope = f(1/2) - f(-1/2) and curvature = 4 (f(1/2) + f(-1/2)).
        """
        if not {-0.5, 0.5} <= self.line_TB.keys():
            return None
        ahead, back = (self.line_TB[a].mean(axis=1) for a in (0.5, -0.5))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((ahead - back + 2 * (ahead + back)) / self.damage)
