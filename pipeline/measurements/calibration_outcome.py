"""Outcome of the calibration of each quantized weight matrix (``quantize.CalibrationOutcome``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.measurements.measurement import Column, OutcomeMeasurement, Values
from pipeline.measurements.registration import register
from pipeline.spec import CALIBRATION

if TYPE_CHECKING:
    from pipeline.quantize import CalibrationOutcome


def of_outcome(outcome: CalibrationOutcome | None) -> Values:
    """The columns; all None if the matrix was not calibrated."""
    if outcome is None:
        return {column.name: None for column in MEASUREMENT.columns}
    return {
        "calibration_tokens": outcome.n_rows,
        "dead_columns": outcome.dead_columns,
        "damping": outcome.damping,
        "scale_exponent": outcome.scale_exponent,
        "clip_share": outcome.clip_share,
        "rounded_to_nearest": int(outcome.rounded),
        "output_error": outcome.output_error,
        "output_error_nearest": outcome.output_error_nearest,
        "calibration_problem": None if outcome.problem is None else outcome.problem.value,
    }


MEASUREMENT = register(OutcomeMeasurement(
    name=CALIBRATION,
    columns=(
        Column("calibration_tokens", "tokens", "Calibration tokens seen", dtype="int64", menu=False),
        Column(
            "dead_columns", "columns", "Dead input columns", "Input columns that are zero for every token.",
            dtype="int64", menu=False,
        ),
        Column(
            "damping", "share", "Damping used",
            "What was added to the diagonal of the second moments, relative to its mean.", menu=False,
        ),
        Column(
            "scale_exponent", "", "Exponent of the scale",
            "The power of its inputs' mean magnitudes that a matrix's columns are scaled by; none where no operation "
            "before it can take the scale.", menu=False,
        ),
        Column(
            "clip_share", "share", "Share left by clipping",
            "What a matrix's groups are clipped to on average, of their largest magnitudes; none where nothing may be "
            "clipped.", menu=False,
        ),
        Column(
            "rounded_to_nearest", "share", "Matrices rounded to nearest",
            "Share of the matrices on which the calibrated method cannot work.",
            dtype="int64", format="~%", better="lower", menu=False, pooled="mean",
        ),
        Column(
            "output_error", "share", "Error of a layer's output",
            "Relative, on the calibration tokens, mean over the matrices.",
            format="~%", better="lower", pooled="mean",
        ),
        Column(
            "output_error_nearest", "share", "Error of a layer's output after rounding to nearest",
            "Relative, on the calibration tokens, mean over the matrices.",
            format="~%", better="lower", menu=False, pooled="mean",
        ),
        Column("calibration_problem", "", "Problem of the calibration", dtype="string", menu=False),
    ),
    of_outcome=of_outcome,
))  # fmt: skip
