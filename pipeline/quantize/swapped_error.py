"""The rounding error of another checkpoint on the weights of this one, with the sizes of this one's own.

With W the weights here, W' those of the other checkpoint, Q the quantizer, D = Q(W) - W and D' = Q(W') - W', the
weights are W + P, where P is D' with the norm of each group of weights that share a scale made that of D. What P costs
beside D tells whether the damage goes with the errors' pattern or with the weights that they meet.

Legend: O = out_features, I = in_features, G = groups per row, S = group size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.quantize.control_variant import ControlVariant
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer, decoded
from pipeline.quantize.variant import Variant

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SwappedError(Quantizer):
    """The weight of one matrix under another checkpoint's error. It has no name in the variant grammar."""

    quantizer: Quantizer
    matrix: str
    """Dotted module path."""
    others: Mapping[str, Tensor] = field(compare=False, repr=False)
    """The other checkpoint's weights as stored, (O, I), by path."""

    def __str__(self) -> str:
        return f"{self.quantizer} (the other checkpoint's error)"

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The values W + P."""
        del calibration
        other = self.others[self.matrix].to(weight.dtype).contiguous()
        own, theirs = (
            decoded(self.quantizer, self.quantizer.encode(each), each) - each for each in (weight, other)
        )
        return Encoded(weight + resized(theirs, own, self.quantizer.group_width(weight.shape[1])), {})

    def decode(self, encoded: Encoded) -> Tensor:
        """The values."""
        return encoded.codes


@dataclass(frozen=True)
class SwappedVariant(ControlVariant):
    """A variant under the error of another checkpoint."""

    others: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    """See :class:`SwappedError`."""

    @classmethod
    def with_errors(cls, variant: Variant, others: Mapping[str, Tensor]) -> SwappedVariant:
        """``variant`` under the errors of the weights ``others``."""
        return cls(variant.rules, variant.head, others=others)

    def quantizer_of(self, name: str, *, is_head: bool = False) -> Quantizer | None:
        """Quantizer of the layer ``name``; None if it keeps its values."""
        quantizer = self.base.quantizer_of(name, is_head=is_head)
        return None if quantizer is None else SwappedError(quantizer, name, self.others)

    def __str__(self) -> str:
        return f"{self.base} (the other checkpoint's error)"


def resized(error: Tensor, like: Tensor, width: int) -> Tensor:
    """float32 (O, I): ``error`` with the norm of each group of ``width`` columns made that of ``like``; a group without
    error stays so.
    """
    import torch

    found = torch.empty_like(error)
    whole = error.shape[1] // min(width, error.shape[1]) * min(width, error.shape[1])
    for columns in (slice(0, whole), slice(whole, None)):
        if not error[:, columns].numel():
            continue
        size = min(width, error[:, columns].shape[1])
        one_OGS, other_OGS = (each[:, columns].unflatten(1, (-1, size)).double() for each in (error, like))
        norm_OG1, wanted_OG1 = (
            each.square().sum(dim=2, keepdim=True).sqrt() for each in (one_OGS, other_OGS)
        )
        factor_OG1 = torch.where(norm_OG1 > 0, wanted_OG1 / norm_OG1, 0.0)
        found[:, columns] = (one_OGS * factor_OG1).flatten(1).to(error.dtype)
    return found
