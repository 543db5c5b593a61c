"""Quantizers, one file each, and the variants that apply them to a model's layers. Parsing needs no torch.

A new quantizer is a frozen dataclass in a file of this package, or of a plug-in, that ``register`` decorates.
"""

from pipeline.quantize.lookup import parse_quantizer, register, registered
from pipeline.quantize.quantizer import (
    Calibration,
    CalibrationOutcome,
    CalibrationProblem,
    Encoded,
    Method,
    Need,
    Quantizer,
    decoded,
    round_trip,
)
from pipeline.quantize.variant import Rule, Variant, parse_variants

__all__ = [
    "Calibration",
    "CalibrationOutcome",
    "CalibrationProblem",
    "Encoded",
    "Method",
    "Need",
    "Quantizer",
    "Rule",
    "Variant",
    "decoded",
    "parse_quantizer",
    "parse_variants",
    "register",
    "registered",
    "round_trip",
]
