"""Anisotropy of the last hidden state: how alike the directions of different tokens are.

The mean cosine between the residual streams of two different tokens after the last decoder layer, before the final
norm: 0 where directions are spread evenly, 1 where all tokens point the same way. Small models that saturate turn
anisotropic in their last layer (Godey et al. 2024, arXiv 2404.07647). Over all pairs it is exact at the cost of one
sum: the squared norm of the sum of n unit vectors is n plus twice the sum of their pairs' cosines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.measurements.measurement import Column, HiddenMeasurement, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4096
"""Tokens at a time, of which float64 copies are made."""


class _UnitSum:
    """The sum of the unit vectors after the last layer."""

    def __init__(self, layers: int) -> None:
        self._last = layers - 1
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, layer: int, hidden_RD: Tensor) -> None:
        if layer != self._last:
            return
        import torch

        for rows_RD in hidden_RD.split(ROWS):
            total_D = torch.nn.functional.normalize(rows_RD.double(), dim=1).sum(dim=0)
            self._sum = total_D if self._sum is None else self._sum + total_D
        self._count += len(hidden_RD)

    def values(self) -> Values:
        assert self._sum is not None
        n = self._count
        return {
            "anisotropy": (float(self._sum.square().sum()) - n) / (n * (n - 1)) if n > 1 else float("nan")
        }


register(HiddenMeasurement(
    name="anisotropy",
    columns=(
        Column(
            "anisotropy", "", "Anisotropy of the last hidden state",
            "Mean cosine between the last hidden states of two tokens; 1 = all point the same way.", format=".2~f",
        ),
    ),
    observe=_UnitSum,
))  # fmt: skip
