"""Fit of a weight matrix to a variant's grid."""

from __future__ import annotations

from pipeline.measurements.measurement import Column, QuantizedWeight, TensorMeasurement, Values
from pipeline.measurements.registration import register


def of_tensor(weight: QuantizedWeight) -> Values:
    """See ``pipeline.quantize.statistics.GridFit``; both None if the weight is not quantized."""
    from pipeline.quantize.statistics import grid_fit

    if weight.quantized_OI is None:
        return {"relative_error": None, "boundary_fraction": None}
    fit = grid_fit(weight.weight_OI, weight.quantized_OI, weight.steps)
    return {"relative_error": fit.relative_error, "boundary_fraction": fit.boundary_fraction}


register(TensorMeasurement(
    name="grid_fit",
    columns=(
        Column(
            "relative_error", "share", "Relative weight error", "||w' - w|| / ||w||, mean over the matrices.",
            format="~%", better="lower", menu=False, pooled="mean",
        ),
        Column(
            "boundary_fraction", "share", "Weights at a rounding boundary",
            "Share of the weights that lie within a tenth of a step of a rounding boundary.",
            format="~%", menu=False, pooled="weighted mean",
        ),
    ),
    of_tensor=of_tensor,
))  # fmt: skip
