"""Encode with the kernel of a calibrated quantizer, found by its type; the codes are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pipeline.quantize.gptq import Gptq
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer
from pipeline.quantize.triton.gptq_block import quantize_columns


def encode_together(
    quantizer: Quantizer, weights: Mapping[str, Tensor], calibration: Calibration, config: Mapping[str, Any]
) -> dict[str, Encoded]:
    """``quantizer.encode_together(weights, calibration, config)``."""
    if type(quantizer) is Gptq:
        return quantizer.encode_by(quantize_columns, weights, calibration)
    return quantizer.encode_together(weights, calibration, config)
