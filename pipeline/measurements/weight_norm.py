"""Norm of the quantized weights; ``relative_error`` is the error relative to it.

It falls under weight decay and grows without, and the sensitivity to an absolute error of the weights moves with it
where nothing normalises what they feed.
"""

from __future__ import annotations

from pipeline.measurements.measurement import Column, QuantizedWeight, TensorMeasurement, Values
from pipeline.measurements.registration import register


def of_tensor(weight: QuantizedWeight) -> Values:
    """Frobenius norm of the stored weight, accumulated in float64."""
    import torch

    return {"weight_norm": float(torch.linalg.vector_norm(weight.weight_OI, dtype=torch.float64))}


register(TensorMeasurement(
    name="weight_norm",
    columns=(
        Column(
            "weight_norm", "", "Norm of the quantized weights", "Root of the sum of the squares of all of them.",
            format=",.4~g", pooled="root sum of squares",
        ),
    ),
    of_tensor=of_tensor,
    per_variant=False,
))  # fmt: skip
