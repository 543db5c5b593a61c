"""A variant under a control: a variant for the probe, whose quantizers are perturbations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.quantize.controls import Control
from pipeline.quantize.quantizer import Calibration, Encoded, Need, Quantizer
from pipeline.quantize.variant import Variant

if TYPE_CHECKING:
    from torch import Tensor

ITSELF = Control("line")
"""The control that changes nothing."""


@dataclass(frozen=True)
class Perturbed(Quantizer):
    """The perturbed weight of one matrix under a control. It has no name in the variant grammar."""

    quantizer: Quantizer | None
    """Quantizer whose error makes the perturbation; None: no quantizer's."""
    control: Control
    matrix: str
    """Dotted module path, on which the random draw depends."""

    def __str__(self) -> str:
        return f"{self.quantizer} ({self.control})"

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The perturbed values. ``calibration``: for the quantizer."""
        from pipeline.quantize.perturbing import RoundingErrors, perturbed

        errors = RoundingErrors(weight, calibration=calibration)
        return Encoded(perturbed(errors, self.control, self.quantizer, self.matrix), {})

    def decode(self, encoded: Encoded) -> Tensor:
        """The values."""
        return encoded.codes


@dataclass(frozen=True)
class ControlVariant(Variant):
    """The weights of a variant, or of fp32, under a control."""

    control: Control = ITSELF
    within: str = ""
    """Dotted path, ending in a dot, of the only perturbed layer; empty: all quantized matrices."""

    @classmethod
    def made(cls, variant: Variant, control: Control, within: str = "") -> ControlVariant:
        """Make ``variant`` under ``control``."""
        return cls(variant.rules, variant.head, control, within)

    @property
    def base(self) -> Variant:
        """The variant whose error it uses."""
        return Variant(self.rules, self.head)

    @property
    def needs(self) -> frozenset[Need]:
        """No needs: a calibrated variant is measured together with its controls."""
        return frozenset()

    @property
    def is_fp32(self) -> bool:
        """False: its weights are changed."""
        return False

    def quantizer_of(self, name: str, *, is_head: bool = False) -> Quantizer | None:
        """Quantizer of the layer ``name``; None if it keeps its values."""
        if (is_head and not self.head) or not name.startswith(self.within):
            return None
        quantizer = super().quantizer_of(name, is_head=is_head)
        return None if quantizer is None and self.rules else Perturbed(quantizer, self.control, name)

    def __str__(self) -> str:
        return f"{self.base} ({self.control})"
