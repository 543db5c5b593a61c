"""NVFP4: 4-bit floats E2M1 in blocks of 16 along in_features, a float8 scale per block, a float32 scale per matrix.

The matrix scale is max|w| / (448 x 6), so that block scales use the whole range of float8 E4M3, whose largest value is
448. A block's scale is max|w| / 6 over the matrix scale, rounded to E4M3, at least its smallest normal value 2^-6.
Weights are multiplied by the reciprocal of both scales' product, which is how the kernels of the field divide. A matrix
of zeros, or of weights too small for a scale, is represented by exact zeros. A last block shorter than 16 is a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pipeline.quantize.blocks import E2M1_LARGEST, divide, require_float32_matrix, round_to_e2m1, row_blocks
from pipeline.quantize.lookup import register
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 16
E4M3_LARGEST = 448.0


@register
@dataclass(frozen=True, order=True)
class NvidiaFloat4(Quantizer):
    """E2M1 with scales at two levels."""

    name: ClassVar[str] = "nvfp4"
    grammar: ClassVar[str] = "nvfp4"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The format that ``text`` names."""
        return cls() if text == "nvfp4" else None

    def __str__(self) -> str:
        return "nvfp4"

    def group_width(self, columns: int) -> int:
        """The block."""
        return min(BLOCK, columns)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """Twice the E2M1 values, which are whole numbers, with ``scale`` (float32 (O, B)) and ``matrix_scale`` ()."""
        import torch

        del calibration
        require_float32_matrix(weight)
        blocks_OBS = row_blocks(weight, BLOCK)
        absmax_OB = blocks_OBS.abs().amax(dim=-1)
        matrix_scale = divide(absmax_OB.amax(), E4M3_LARGEST * E2M1_LARGEST)
        least = torch.finfo(torch.float8_e4m3fn).tiny
        # Zero, and a scale so small that it has no reciprocal: every code is 0.
        matrix_scale = matrix_scale.where((1.0 / matrix_scale / least).isfinite(), 1.0)
        scale_OB = (divide(absmax_OB, E2M1_LARGEST) / matrix_scale).clamp(least, E4M3_LARGEST)
        scale_OB = scale_OB.to(torch.float8_e4m3fn).to(torch.float32)
        reciprocal_OB = (1.0 / matrix_scale) / scale_OB
        codes_OBS = round_to_e2m1(blocks_OBS * reciprocal_OB.unsqueeze(-1)) * 2
        parameters = {"scale": scale_OB, "matrix_scale": matrix_scale}
        return Encoded(codes_OBS.flatten(1)[:, : weight.shape[1]], parameters)

    def decode(self, encoded: Encoded) -> Tensor:
        """The E2M1 values times both scales."""
        scale_OB = encoded.parameters["matrix_scale"] * encoded.parameters["scale"]
        values_OBS = row_blocks(encoded.codes / 2, BLOCK) * scale_OB.unsqueeze(-1)
        return values_OBS.flatten(1)[:, : encoded.codes.shape[1]]
