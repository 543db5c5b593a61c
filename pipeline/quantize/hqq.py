"""HQQ: half-quadratic quantization, which moves the zero points of an asymmetric integer grid to suit sparse errors.

Source: Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023), as the authors'
library computes it by default. The inverse scale is r = (2^b - 1) / (max w - min w), the zero point z = -min w r, which
need not be whole. Up to 20 times: q = clamp(round(w r + z)), w' = (q - z) / r; the error e = w - w' is shrunk to
sign(e) max(|e| - |e|^(p-1) / beta, 0) with p = 0.7 and beta = 10; z = mean over the group of q - (w - e) r. It stops
after the first step at which the mean |w - w'| over the matrix has not fallen. r stays, is 1 where max - min <= 1e-4,
and at most 2e4, so that groups of tiny weights are not resolved. Everything is computed in float32 on every device,
where the library takes float16 on a GPU. No calibration data are needed.

Legend of shapes: O = out_features, G = groups per row, S = group size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pipeline.base.errors import UsageError
from pipeline.quantize.blocks import require_float32_matrix, row_blocks
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.lookup import register
from pipeline.quantize.quantizer import Calibration, Encoded, Method, Quantizer

if TYPE_CHECKING:
    from torch import Tensor

EXPONENT, BETA, ITERATIONS = 0.7, 10.0, 20
LEAST_RANGE, LARGEST_INVERSE_SCALE = 1e-4, 2e4


@register
@dataclass(frozen=True)
class HalfQuadratic(Method):
    """Zero points by HQQ; the codes of an asymmetric integer grid."""

    name: ClassVar[str] = "hqq"
    grammar: ClassVar[str] = "@hqq (on int{b}-...-asym)"

    @classmethod
    def make(cls, grid: Quantizer, parameters: Mapping[str, str]) -> Self:
        """Make the method on ``grid``; raises UsageError for a grid without zero points."""
        if not isinstance(grid, IntegerGrid) or grid.symmetric:
            raise UsageError(
                f"{grid}@hqq: HQQ moves zero points; wanted an asymmetric grid, int{{2..8}}-...-asym"
            )
        return super().make(grid, parameters)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The codes, with ``scale`` and ``zero_point`` (float32 (O, G)); zero points need not be whole."""
        import torch

        del calibration
        require_float32_matrix(weight)
        low, high = self._grid.code_range
        parts = [_Part(part, high) for part in self._parts(weight)]
        best = math.inf
        for _ in range(ITERATIONS):
            error = sum(part.advance(low, high) for part in parts) / weight.numel()
            if not error < best:
                break
            best = error
        codes = torch.cat([part.codes(low, high).flatten(1) for part in parts], dim=1)
        scale = torch.cat([1.0 / part.inverse_OG for part in parts], dim=1)
        return Encoded(
            codes, {"scale": scale, "zero_point": torch.cat([part.zero_OG for part in parts], dim=1)}
        )

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        """Where each weight lies between the codes: its boundaries are half-integers, the zero point included."""
        steps = self.grid.grid_steps(weight, encoded)
        zero_OG = encoded.parameters["zero_point"]
        assert steps is not None
        shifted = steps + zero_OG.unsqueeze(-1)
        size = steps.shape[-1]
        shifted.flatten(1)[:, weight.shape[1] :] = 0  # padding
        return shifted.reshape(len(weight), -1, size)

    @property
    def _grid(self) -> IntegerGrid:
        assert isinstance(self.grid, IntegerGrid)
        return self.grid

    def _parts(self, weight: Tensor) -> list[Tensor]:
        """Whole groups (O, G, S), and the shorter last one where there is one: padding would enter its mean."""
        columns = weight.shape[1]
        size = min(self._grid.group_size or columns, columns)
        whole = columns - columns % size
        return [
            row_blocks(part, min(size, part.shape[1]))
            for part in (weight[:, :whole], weight[:, whole:])
            if part.shape[1]
        ]


class _Part:
    """Groups of one size on their way."""

    def __init__(self, weight_OGS: Tensor, high: int) -> None:
        self._weight_OGS = weight_OGS
        low_OG, high_OG = weight_OGS.aminmax(dim=-1)
        range_OG = high_OG - low_OG
        inverse_OG = (high / range_OG).where(range_OG > LEAST_RANGE, 1.0)
        self.inverse_OG = inverse_OG.clamp(max=LARGEST_INVERSE_SCALE)
        self.zero_OG = -low_OG * self.inverse_OG

    def codes(self, low: int, high: int) -> Tensor:
        """(O, G, S) under the zero points as they are now."""
        steps_OGS = self._weight_OGS * self.inverse_OG.unsqueeze(-1) + self.zero_OG.unsqueeze(-1)
        return steps_OGS.round().clamp(low, high)

    def advance(self, low: int, high: int) -> float:
        """One step; gives the sum of |w - w'| before it."""
        weight_OGS, inverse_OG1 = self._weight_OGS, self.inverse_OG.unsqueeze(-1)
        codes_OGS = self.codes(low, high)
        error_OGS = weight_OGS - (codes_OGS - self.zero_OG.unsqueeze(-1)) / inverse_OG1
        size_OGS = error_OGS.abs()
        shrunk_OGS = (size_OGS - (1.0 / BETA) * size_OGS.pow(EXPONENT - 1)).clamp(min=0.0) * error_OGS.sign()
        self.zero_OG = (codes_OGS - (weight_OGS - shrunk_OGS) * inverse_OG1).mean(dim=-1)
        return float(size_OGS.double().sum())
