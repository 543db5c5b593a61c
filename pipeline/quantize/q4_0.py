"""Q4_0, llama.cpp's oldest 4-bit format: blocks of 32 along in_features, 16 even steps, the scale in float16.

The scale is d = s / -8, where s is the weight of the largest magnitude with its sign (the first of equals): s is the
code 0, and the other sign has one step less. Codes are clamp(trunc(w / d + 8.5), 0, 15), half up, with the unrounded
float32 d, while decoding multiplies by d rounded to float16. A block of zeros, or one whose scale vanishes in float16,
is represented by exact zeros. A last block shorter than 32 is a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pipeline.quantize.blocks import require_float32_matrix, row_blocks
from pipeline.quantize.lookup import register
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32


@register
@dataclass(frozen=True, order=True)
class LlamaCppQ40(Quantizer):
    """16 even steps with a float16 scale per block."""

    name: ClassVar[str] = "q4_0"
    grammar: ClassVar[str] = "q4_0"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The format that ``text`` names."""
        return cls() if text == "q4_0" else None

    def __str__(self) -> str:
        return "q4_0"

    def group_width(self, columns: int) -> int:
        """The block."""
        return min(BLOCK, columns)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The codes 0 to 15, with ``scale`` (the float16 values as float32 (O, B))."""
        del calibration
        require_float32_matrix(weight)
        blocks_OBS = row_blocks(weight, BLOCK)
        scale_OB = self._scale(blocks_OBS)
        codes_OBS = (self._steps(blocks_OBS, scale_OB) + 8.5).trunc().clamp(0, 15)
        parameters = {"scale": scale_OB.half().float(), "unrounded_scale": scale_OB}
        return Encoded(codes_OBS.flatten(1)[:, : weight.shape[1]], parameters)

    def decode(self, encoded: Encoded) -> Tensor:
        """(code - 8) times the scale."""
        steps_OBS = row_blocks(encoded.codes - 8, BLOCK)
        return (steps_OBS * encoded.parameters["scale"].unsqueeze(-1)).flatten(1)[:, : encoded.codes.shape[1]]

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        """``weight`` in the steps that its codes were chosen with: (O, B, 32)."""
        return self._steps(row_blocks(weight, BLOCK), encoded.parameters["unrounded_scale"])

    def _scale(self, blocks_OBS: Tensor) -> Tensor:
        at_OB1 = blocks_OBS.abs().argmax(dim=-1, keepdim=True)
        return blocks_OBS.gather(-1, at_OB1).squeeze(-1) / -8

    def _steps(self, blocks_OBS: Tensor, scale_OB: Tensor) -> Tensor:
        # A product with the reciprocal, as the format's own encoder has it: a quotient would round otherwise.
        # A scale so small that it has no reciprocal vanishes in float16 too.
        reciprocal_OB = 1 / scale_OB
        reciprocal_OB = reciprocal_OB.where(reciprocal_OB.isfinite(), 0.0)
        return blocks_OBS * reciprocal_OB.unsqueeze(-1)
