"""Integer grids with a scale per group: round to nearest.

A weight is a float32 matrix of shape (out_features, in_features). Along in_features it is cut into groups of
``group_size`` consecutive weights (the last may be shorter; None, or a size beyond in_features, is one group
per row); every group has its own scale, and on an asymmetric grid its own integer zero point.

* asymmetric: lo = min(0, min w), hi = max(0, max w), scale = (hi - lo) / (2^b - 1),
  zero = round(-lo / scale), q = clamp(round(w / scale) + zero, 0, 2^b - 1), w' = (q - zero) * scale
* symmetric: scale = max|w| / (2^(b-1) - 1), q = clamp(round(w / scale), -(2^(b-1) - 1), 2^(b-1) - 1),
  w' = q * scale

All arithmetic is float32, rounding is half to even, and zero is always on the grid. The scale has NO floor: a
floor of 1/127, which some tools have, makes INT8 of small weights worse than INT4. A group whose scale is zero
(all zeros, or so small that the scale underflows) is represented by exact zeros.

No calibration data and no error repair are involved: this measures the fit of the weights themselves to the
grid. The asymmetric grid is the one of torchao's ``choose_qparams_affine``/``quantize_affine`` and of
compressed-tensors; the tests hold both kinds bit-equal to torchao.

The shape suffixes below: O = out_features, I = in_features, G = groups per row, S = group size (the last group
zero-padded; a padded zero changes neither lo, hi nor max|w|).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pipeline.base.errors import UsageError
from pipeline.quantize.blocks import divide, require_float32_matrix, row_blocks
from pipeline.quantize.lookup import register
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"int(?P<bits>[2-8])-(?:g(?P<group>[1-9]\d*)|channel)-(?P<kind>asym|sym)")


@register
@dataclass(frozen=True, order=True)
class IntegerGrid(Quantizer):
    """A grid of evenly spaced values with a scale per group."""

    name: ClassVar[str] = "integer"
    grammar: ClassVar[str] = "int{2..8}-g{G}-{asym|sym}, int{2..8}-channel-{asym|sym}"

    bits: int
    """Width of the grid, 2 to 8."""
    group_size: int | None
    """Consecutive weights along in_features that share a scale; None = the whole row (per output channel)."""
    symmetric: bool
    """True: q in [-(2^(b-1)-1), 2^(b-1)-1], zero point 0. False: q in [0, 2^b-1] with an integer zero point."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise UsageError(f"integer grid of {self.bits} bits: wanted 2 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise UsageError(f"integer grid with group size {self.group_size}: wanted at least 1")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The grid that ``text`` names.

        >>> IntegerGrid.parse("int4-g128-asym")
        IntegerGrid(bits=4, group_size=128, symmetric=False)
        """
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        group = int(match["group"]) if match["group"] else None
        return cls(int(match["bits"]), group, match["kind"] == "sym")

    def __str__(self) -> str:
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        return f"int{self.bits}-{group}-{'sym' if self.symmetric else 'asym'}"

    @property
    def code_range(self) -> tuple[int, int]:
        """The least and the largest code."""
        if self.symmetric:
            return -(2 ** (self.bits - 1) - 1), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def choose(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The grid of ``weight`` (float32 (O, I)): scale and zero point, both float32 (O, G).

        The scale is zero for a group that is represented by exact zeros; the zero points are integers.
        """
        require_float32_matrix(weight)
        lo_OG, hi_OG = self._grouped(weight).aminmax(dim=-1)
        low, high = self.code_range
        if self.symmetric:
            scale_OG = divide((-lo_OG).maximum(hi_OG), high)
            return scale_OG, scale_OG.new_zeros(scale_OG.shape)
        lo_OG, hi_OG = lo_OG.clamp(max=0), hi_OG.clamp(min=0)
        scale_OG = divide(hi_OG - lo_OG, high)
        return scale_OG, (-lo_OG / _divisor(scale_OG)).round_().clamp_(low, high)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The codes q, with ``scale`` and ``zero_point`` (float32 (O, G))."""
        del calibration
        scale_OG, zero_OG = self.choose(weight)
        codes_OGS = (
            self._steps(weight, scale_OG).round_().add_(zero_OG.unsqueeze(-1)).clamp_(*self.code_range)
        )
        return Encoded(codes_OGS.flatten(1)[:, : weight.shape[1]], {"scale": scale_OG, "zero_point": zero_OG})

    def decode(self, encoded: Encoded) -> Tensor:
        """The weights (q - zero_point) * scale."""
        scale_OG, zero_OG = encoded.parameters["scale"], encoded.parameters["zero_point"]
        steps_OGS = self._grouped(encoded.codes) - zero_OG.unsqueeze(-1)
        return steps_OGS.mul_(scale_OG.unsqueeze(-1)).flatten(1)[:, : encoded.codes.shape[1]]

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        """``weight / scale`` in groups: float32 (O, G, S), padding and empty groups 0."""
        return self._steps(weight, encoded.parameters["scale"])

    def group_width(self, columns: int) -> int:
        """The group size."""
        return columns if self.group_size is None else min(self.group_size, columns)

    def _steps(self, weight: Tensor, scale_OG: Tensor) -> Tensor:
        return self._grouped(weight) / _divisor(scale_OG).unsqueeze(-1)

    def _grouped(self, matrix: Tensor) -> Tensor:
        """(O, I) -> (O, G, S), the last group padded with zeros."""
        return row_blocks(matrix, self.group_width(matrix.shape[1]))


def _divisor(scale_OG: Tensor) -> Tensor:
    """The scale; infinity in place of zero, so that the quotient is exactly zero."""
    return scale_OG.where(scale_OG > 0, math.inf)
