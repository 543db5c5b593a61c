"""Problems of calibrated methods over a trajectory: matrices by variant and reason."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

EXAMPLES = 3
"""Matrices that are named for each reason; ``tables/tensors.parquet`` has them all."""


@dataclass(frozen=True)
class CalibrationProblem:
    """Why a calibrated method could not work on some matrices of one variant."""

    variant: str
    problem: str
    matrices: int
    """Different ones."""
    cases: int
    """Matrices counted at every checkpoint."""
    rounded: int
    """Cases that were rounded to nearest for it."""
    first_step: int
    last_step: int
    examples: tuple[str, ...]
    """Names of matrices."""


def calibration_problems(tensors: pl.DataFrame) -> tuple[CalibrationProblem, ...]:
    """The problems by variant and reason; tensors: one row per checkpoint, variant and matrix."""
    if "calibration_problem" not in tensors.columns:
        return ()
    found = tensors.filter(pl.col("calibration_problem").is_not_null())
    rows = (
        found.group_by("variant", "calibration_problem", maintain_order=True)
        .agg(
            pl.col("name").n_unique().alias("matrices"),
            pl.len().alias("cases"),
            pl.col("rounded_to_nearest").fill_null(0).sum().cast(pl.Int64).alias("rounded"),
            pl.col("step").min().alias("first_step"),
            pl.col("step").max().alias("last_step"),
            pl.col("name").unique(maintain_order=True).head(EXAMPLES).alias("examples"),
        )
        .rename({"calibration_problem": "problem"})
        .to_dicts()
    )
    return tuple(CalibrationProblem(**{**row, "examples": tuple(row["examples"])}) for row in rows)
