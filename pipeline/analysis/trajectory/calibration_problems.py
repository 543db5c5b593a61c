"""Problems of calibrated methods over a trajectory: matrices by variant and reason."""

from __future__ import annotations

from typing import Any

import polars as pl

EXAMPLES = 3
"""Matrices that are named for each reason; ``tables/tensors.parquet`` has them all."""


def calibration_problems(tensors: pl.DataFrame) -> list[dict[str, Any]]:
    """The ``calibration_problems`` of report.json, one entry per variant and reason.

    tensors: one row per checkpoint, variant and matrix. ``matrices`` counts different ones, ``cases`` counts them at
    every checkpoint, and ``rounded`` how many of the cases were rounded to nearest for it.
    """
    if "calibration_problem" not in tensors.columns:
        return []
    found = tensors.filter(pl.col("calibration_problem").is_not_null())
    return (
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
