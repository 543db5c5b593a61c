"""A quantizer as a plug-in: -1, 0 and 1 times one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.quantize import Calibration, Encoded, Quantizer, register

if TYPE_CHECKING:
    from torch import Tensor


@register
@dataclass(frozen=True)
class Ternary(Quantizer):
    """Codes are signs; weights under half of the mean magnitude become 0. Source: Li et al. 2016, arXiv 1605.04711."""

    name = "ternary"
    grammar = "ternary"

    @classmethod
    def parse(cls, text: str) -> Ternary | None:
        return cls() if text == "ternary" else None

    def __str__(self) -> str:
        return "ternary"

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        kept = weight.abs() >= 0.5 * weight.abs().mean(dim=1, keepdim=True)
        codes = weight.sign() * kept
        scale = (weight * codes).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True).clamp(min=1)
        return Encoded(codes, {"scale": scale})

    def decode(self, encoded: Encoded) -> Tensor:
        return encoded.codes * encoded.parameters["scale"]
