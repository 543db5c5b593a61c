"""What shards, tables and the report take from the columns of the measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.measurements.measurement import (
    AnyMeasurement,
    Column,
    Level,
    OutcomeMeasurement,
    TensorMeasurement,
    TokenMeasurement,
)
from pipeline.measurements.registration import lookup, registered


def columns() -> Iterator[tuple[AnyMeasurement, Column]]:
    """Every column of every measurement."""
    for measurement in registered():
        for column in measurement.columns:
            yield measurement, column


def score_columns(names: Iterable[str]) -> list[Column]:
    """Variant-level and checkpoint-level columns of the measurements ``names``."""
    found = [each for each in map(lookup, names) if each.level != "tensor"]
    return [column for each in found for column in each.columns]


def tensor_columns(names: Iterable[str]) -> list[Column]:
    """Tensor-level columns of the measurements ``names``."""
    return [column for each in map(lookup, names) if each.level == "tensor" for column in each.columns]


def pooled_columns(names: Iterable[str]) -> list[Column]:
    """Tensor-level columns that are pooled to one number."""
    return [column for column in tensor_columns(names) if column.pooled]


def trajectory_columns(level: Level, *, per_variant: bool = True) -> list[Column]:
    """Columns of all measurements of ``level`` with one number per checkpoint, per variant or not."""
    return [
        column
        for measurement, column in columns()
        if measurement.level == level
        and is_per_variant(measurement) == per_variant
        and column.tables
        and column.dtype in ("float64", "int64")
        and (level != "tensor" or column.pooled)
    ]


def unvaried_columns() -> list[Column]:
    """Columns of all measurements with one number per checkpoint, independent of the variant."""
    levels: tuple[Level, ...] = ("tensor", "checkpoint", "hidden")
    return [column for level in levels for column in trajectory_columns(level, per_variant=False)]


def choices() -> list[Column]:
    """Columns of all measurements that the report's damage chart offers."""
    levels: tuple[Level, ...] = ("token", "tensor")
    return [column for level in levels for column in trajectory_columns(level) if column.menu]


def is_per_variant(measurement: AnyMeasurement) -> bool:
    """Whether each variant has its own value."""
    if isinstance(measurement, TensorMeasurement | OutcomeMeasurement):
        return measurement.per_variant
    return isinstance(measurement, TokenMeasurement)


def pool(column: Column, tensors: Sequence[Mapping[str, Any]]) -> float | None:
    """Pool a tensor-level column over all ``tensors``, each with its ``n`` weights.

    None if it is undefined for one of them, or there is none.
    """
    values = [each[column.name] for each in tensors]
    if None in values:
        return None
    return pool_values(column, np.array(values, dtype=np.float64), np.array([each["n"] for each in tensors]))


def pool_values(column: Column, values: npt.NDArray[Any], n: npt.NDArray[Any]) -> float | None:
    """Like :func:`pool`, from ``values`` and numbers of weights ``n`` (M,)."""
    if column.pooled == "finite mean":
        values = values[np.isfinite(values)]
    if not len(values):
        return None
    if column.pooled == "root sum of squares":
        return float(np.sqrt(np.square(values).sum()))
    return float(np.average(values, weights=n if column.pooled == "weighted mean" else None))


def squared_error(tensors: Sequence[Mapping[str, Any]]) -> float:
    """Sum ||W' - W||^2 / sum ||W||^2 over a variant's tensors; NaN where one was not quantized."""
    if not tensors or any(tensor["relative_error"] is None for tensor in tensors):
        return math.nan
    squares = np.array([tensor["n"] * (tensor["std"] ** 2 + tensor["mean"] ** 2) for tensor in tensors])
    errors = np.array([tensor["relative_error"] ** 2 for tensor in tensors])
    return float((squares * errors).sum() / squares.sum()) if squares.sum() > 0 else math.nan
