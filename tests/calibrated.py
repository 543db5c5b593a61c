"""A calibrated method, for any test: columns that receive much are rounded on a finer grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.quantize import Calibration, Encoded, Method, Need, register

if TYPE_CHECKING:
    from torch import Tensor

SEEN: list[int] = []
"""Calibration tokens that each weight was encoded with, in this process."""


@register
@dataclass(frozen=True)
class Weighed(Method):
    """Scales each column by the root mean square of its inputs before it is rounded."""

    name: ClassVar[str] = "weighed"
    grammar: ClassVar[str] = "@weighed"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SECOND_MOMENTS})

    power: float = 0.5

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        assert calibration is not None
        assert calibration.second_moments is not None
        SEEN.append(calibration.n_rows)
        scale_I = (calibration.second_moments.diagonal().sqrt() + 1e-6).pow(self.power).float()
        encoded = self.grid.encode(weight * scale_I)
        return Encoded(encoded.codes, {**encoded.parameters, "columns": scale_I})

    def decode(self, encoded: Encoded) -> Tensor:
        return self.grid.decode(encoded) / encoded.parameters["columns"]

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        return None
