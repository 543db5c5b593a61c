"""NF4, the 4-bit format of QLoRA: quantiles of a normal law, scaled by the largest magnitude of a block.

Source: Dettmers et al., "QLoRA" (arXiv 2305.14314), appendix E for the 16 values. As in bitsandbytes, blocks run over
the flattened weight (out_features, in_features), so that one may span two rows, the last may be shorter, and the value
nearest to w / absmax is taken, the lower one of two that are equally near. The scale stays float32: no double
quantization. A block of zeros is represented by exact zeros.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pipeline.base.errors import UsageError
from pipeline.quantize.blocks import require_float32_matrix, row_blocks
from pipeline.quantize.lookup import register
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer

if TYPE_CHECKING:
    from torch import Tensor

VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values, in units of a block's largest magnitude."""


@register
@dataclass(frozen=True, order=True)
class NormalFloat(Quantizer):
    """NF4 with one float32 scale per block."""

    name: ClassVar[str] = "nf4"
    grammar: ClassVar[str] = "nf4-b{B}"

    block_size: int = 64
    """Consecutive weights of the flattened matrix that share a scale."""

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise UsageError(f"nf4 with blocks of {self.block_size}: wanted at least 2 weights")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The format that ``text`` names.

        >>> NormalFloat.parse("nf4-b64")
        NormalFloat(block_size=64)
        """
        match = re.fullmatch(r"nf4-b([1-9]\d*)", text)
        return None if match is None else cls(int(match[1]))

    def __str__(self) -> str:
        return f"nf4-b{self.block_size}"

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The codes 0 to 15, with ``absmax`` (float32 (blocks,))."""
        import torch

        del calibration
        require_float32_matrix(weight)
        blocks_BS = row_blocks(weight.reshape(1, -1), self.block_size)[0]
        absmax_B = blocks_BS.abs().amax(dim=1)
        share_BS = blocks_BS / absmax_B.where(absmax_B > 0, 1.0).unsqueeze(1)
        values = torch.tensor(VALUES, dtype=torch.float64)
        halfway = ((values[1:] + values[:-1]) / 2).to(weight.device, torch.float32)
        codes = torch.bucketize(share_BS, halfway).to(torch.float32)
        return Encoded(codes.flatten()[: weight.numel()].view_as(weight), {"absmax": absmax_B})

    def decode(self, encoded: Encoded) -> Tensor:
        """The values, times the largest magnitude of their block."""
        import torch

        codes, absmax_B = encoded.codes, encoded.parameters["absmax"]
        values = torch.tensor(VALUES, dtype=torch.float32, device=codes.device)[codes.long()]
        scaled = row_blocks(values.reshape(1, -1), self.block_size)[0] * absmax_B.unsqueeze(1)
        return scaled.flatten()[: codes.numel()].view_as(codes)

    def group_width(self, columns: int) -> int:
        """The block size. A block may span two rows of another length; here each row starts a new block."""
        return min(self.block_size, columns)
