"""Quantization methods over a trajectory: what they repair, and the matrices that they cannot work on.

The gap of each is compared with that of round-to-nearest on the same grid: 1 = the method repairs nothing, 0 = all of
the damage; above 1 it does harm. Both gaps are measured on the same tokens, so the ratio and its interval are paired
over the text (``statistics.intervals``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.analysis.statistics.intervals import gap_ratios
from pipeline.base.errors import UsageError
from pipeline.spec import Variant, column_of

REMAINING = "gap_over_rtn"
"""Column of the table, after the variant's prefix; its bounds end in ``_lower`` and ``_upper``."""


@dataclass(frozen=True)
class RemainingGap:
    """The gap of a method over that of round-to-nearest, at one checkpoint."""

    step: int
    estimate: float
    lower: float
    upper: float
    """95 % over the text."""

    def __str__(self) -> str:
        return f"{self.estimate:.0%} ({self.lower:.0%} to {self.upper:.0%})"


@dataclass(frozen=True)
class MethodRepair:
    """One method on one grid, over a trajectory."""

    variant: str
    method: str
    """Name of the method with its parameters, such as ``gptq:damping=0.05``."""
    rounded: str
    """The variant with the same grid without a method."""
    first: RemainingGap | None
    """At the first checkpoint where round-to-nearest has a gap that is significantly different from 0; None:
    nowhere."""
    last: RemainingGap | None
    """At the last such checkpoint."""
    n_known: int
    """Number of such checkpoints."""
    sentence: str
    """The result."""


def with_repairs(table: pl.DataFrame, names: Iterable[str]) -> tuple[pl.DataFrame, tuple[MethodRepair, ...]]:
    """``table`` with the columns ``<v>_gap_over_rtn``, ``_lower`` and ``_upper`` of every method whose grid was also
    measured without one, and what they come to.

    table: a trajectory with losses per batch; names: of the variants in it. Null where it cannot be told.
    """
    columns = {name: f"{column_of(name)}_batch_nll_nats" for name in names}
    losses = {name: np.array(table[column].to_list(), dtype=np.float64) for name, column in columns.items()}
    repairs = []
    for name, own in losses.items():
        rounded, method = grid_and_method(name)
        if rounded == name or not {rounded, "fp32"} <= losses.keys():
            continue
        ratios = gap_ratios(losses["fp32"], own, losses[rounded])
        prefix = f"{column_of(name)}_{REMAINING}"
        found = zip((prefix, f"{prefix}_lower", f"{prefix}_upper"), ratios, strict=True)
        table = table.with_columns(pl.Series(key, values).fill_nan(None) for key, values in found)
        known = [
            RemainingGap(int(step), *map(float, values))
            for step, *values in zip(table["step"], *ratios, strict=True)
            if np.isfinite(values).all()
        ]
        first, last = (known[0], known[-1]) if known else (None, None)
        said = _sentence(method, rounded, known)
        repairs.append(MethodRepair(name, method, rounded, first, last, len(known), said))
    return table, tuple(repairs)


def _sentence(method: str, rounded: str, known: Sequence[RemainingGap]) -> str:
    """``known``: the gaps that are left, in the order of training."""
    if not known:
        return f"What {method} repairs of {rounded} cannot be told: round-to-nearest costs nothing there."
    last = known[-1]
    return f"{method} leaves {last} of the gap of round-to-nearest {rounded} at step {last.step:,}."


def grid_and_method(name: str) -> tuple[str, str]:
    """The name of a variant without its methods, and of its methods; of a plug-in that is not here, as it is."""
    try:
        variant = Variant.parse(name)
    except UsageError:
        return name, ""
    return str(variant.rounded), variant.method


EXAMPLES = 3
"""Matrices that are named for each reason; ``tables/tensors.parquet`` has them all."""


@dataclass(frozen=True)
class AffectedMatrices:
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


def calibration_problems(tensors: pl.DataFrame) -> tuple[AffectedMatrices, ...]:
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
    return tuple(AffectedMatrices(**{**row, "examples": tuple(row["examples"])}) for row in rows)
