"""Moments of a stored weight matrix, including its excess kurtosis."""

from __future__ import annotations

from pipeline.measurements.measurement import Column, QuantizedWeight, TensorMeasurement, Values
from pipeline.measurements.registration import register


def of_tensor(weight: QuantizedWeight) -> Values:
    """See ``pipeline.quantize.statistics.Moments``."""
    from pipeline.quantize.statistics import moments

    found = moments(weight.weight_OI)
    return {name: getattr(found, name) for name in ("mean", "std", "absmax", "kurtosis")}


register(TensorMeasurement(
    name="moments",
    columns=(
        Column("mean", "", "Mean weight", menu=False),
        Column("std", "", "Standard deviation of the weights", menu=False),
        Column("absmax", "", "Largest weight", menu=False),
        Column(
            "kurtosis", "", "Excess kurtosis of the weights", "0 = normal distribution; higher = heavier tails.",
            format=",.4~g", heading="Kurtosis", pooled="finite mean",  # undefined for equal weights
        ),
    ),
    of_tensor=of_tensor,
    per_variant=False,
))  # fmt: skip
