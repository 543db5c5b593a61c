"""MXFP4: 4-bit floats E2M1 in blocks of 32 along in_features that share a power of two.

Source: OCP Microscaling Formats specification 1.0, section 6.3, for the exponent of ``mxfp4``:
floor(log2 max|w|) - 2, so that magnitudes between 6 and 8 times the scale are cut to 6. ``mxfp4-rceil`` takes the next
power of two above max|w| / 6, so that nothing is cut (the rule of NVIDIA's hardware). Exponents are held in 8 bits:
-127 to 127, of which the least is not used (:data:`EXPONENTS`). In a block of zeros, or of magnitudes below that, the
weights become exact zeros. A last block shorter than 32 is a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pipeline.quantize.blocks import E2M1_LARGEST, divide, require_float32_matrix, round_to_e2m1, row_blocks
from pipeline.quantize.lookup import register
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
LARGEST_POWER = 2
"""Exponent of the largest power of two in E2M1, which is 4."""
EXPONENTS = (-126, 127)
"""Range of the exponents. The minimum is that of the smallest normal float32, because not every device can
represent the format's own -127."""


@register
@dataclass(frozen=True, order=True)
class MicroscalingFloat4(Quantizer):
    """E2M1 with a shared power of two."""

    name: ClassVar[str] = "mxfp4"
    grammar: ClassVar[str] = "mxfp4[-rceil]"

    round_up: bool = False
    """Whether the power of two is rounded up (``mxfp4-rceil``)."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The format that ``text`` names.

        >>> MicroscalingFloat4.parse("mxfp4")
        MicroscalingFloat4(round_up=False)
        """
        return {"mxfp4": cls(), "mxfp4-rceil": cls(round_up=True)}.get(text)

    def __str__(self) -> str:
        return "mxfp4-rceil" if self.round_up else "mxfp4"

    def group_width(self, columns: int) -> int:
        """The block."""
        return min(BLOCK, columns)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """Twice the E2M1 values, which are whole numbers, with ``scale`` (float32 (O, B))."""
        del calibration
        require_float32_matrix(weight)
        blocks_OBS = row_blocks(weight, BLOCK)
        scale_OB = self._scale(blocks_OBS.abs().amax(dim=-1))
        codes_OBS = round_to_e2m1(blocks_OBS / scale_OB.unsqueeze(-1)) * 2
        return Encoded(codes_OBS.flatten(1)[:, : weight.shape[1]], {"scale": scale_OB})

    def decode(self, encoded: Encoded) -> Tensor:
        """The E2M1 values times their power of two."""
        values_OBS = row_blocks(encoded.codes / 2, BLOCK) * encoded.parameters["scale"].unsqueeze(-1)
        return values_OBS.flatten(1)[:, : encoded.codes.shape[1]]

    def _scale(self, absmax_OB: Tensor) -> Tensor:
        import torch

        # frexp gives m in [0.5, 1) and e with absmax = m 2^e, exactly, where a logarithm would round.
        if self.round_up:
            mantissa_OB, exponent_OB = torch.frexp(divide(absmax_OB, E2M1_LARGEST))
            exponent_OB = exponent_OB - (mantissa_OB == 0.5).to(exponent_OB.dtype)
        else:
            exponent_OB = torch.frexp(absmax_OB).exponent - 1 - LARGEST_POWER
        exponent_OB = exponent_OB.clamp(*EXPONENTS).where(absmax_OB > 0, 0)
        return torch.ldexp(torch.ones_like(absmax_OB), exponent_OB)
