"""Measurements, one file each: a frozen declaration with plain functions.

A measurement names its columns (unit, dtype, label, axis, direction of good), its level and a hook. The columns of
shards, the rows of diverged runs, the trajectory table and the report's menus, tables and axes are made from that.
``base`` says what each level's hook is given. To add one, write a file with a ``TokenMeasurement``,
``TensorMeasurement`` or ``CheckpointMeasurement``, hand it to :func:`register` and name the file as a plug-in
(``pipeline.base.plugins``); ``--measure NAME`` then asks for it.

The five of ``CORE`` (``pipeline.spec.MEASUREMENTS``) are always measured; their columns are in every shard.

What the engine that walks a model must offer, on every device, is in ``hooks``:

- *token*: for each block of predictions, ``token_values(measurements, logits_VPK, targets_P)``. A backend whose kernels
  compute some of the values themselves leaves the measurements that give these out and hands over arrays of the same
  names, dtypes (``TokenMeasurement.values``) and shape. After the last block, for each variant,
  ``token_columns(measurements, values, batches)``.
- *tensor*: for each quantized weight and variant ``tensor_values(measurements, QuantizedWeight)``; a backend whose
  kernels sum up some of them does the same. What calibrating a weight gave, the engine itself hands to
  ``outcome_values(measurements, outcome)``.
- *hidden*: a ``HiddenStates`` of the measurements and the number of decoder layers, given the residual stream of fp32
  after each layer, whatever the pieces; then its ``columns()``.
- *checkpoint*: ``checkpoint_values(measurements, model, tokens_NT)`` before any layer of the model is replaced. Where
  the model is never there as a whole, such a measurement is refused by name (``refuse_whole_models``).

A fast kernel for a measurement changes its speed, never its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import UsageError, unknown_name
from pipeline.base.plugins import load_plugins
from pipeline.measurements import (
    agreement,
    anisotropy,
    calibration_outcome,
    divergence,
    flatness,
    grid_fit,
    head_rank,
    loss,
    moments,
    outliers,
    weight_norm,
)
from pipeline.measurements.measurement import (
    AnyMeasurement,
    CheckpointMeasurement,
    Column,
    HiddenMeasurement,
    HiddenObserver,
    Level,
    OutcomeMeasurement,
    QuantizedWeight,
    TensorMeasurement,
    TokenBlock,
    TokenMeasurement,
)
from pipeline.spec import MEASUREMENTS

__all__ = [
    "AnyMeasurement", "CheckpointMeasurement", "Column", "HiddenMeasurement", "HiddenObserver", "Level",
    "OutcomeMeasurement", "QuantizedWeight", "TensorMeasurement", "TokenBlock", "TokenMeasurement",
    "choices", "columns", "find_column", "further", "installed", "is_per_variant", "lookup",
    "parse_measurements", "pool", "pool_values", "pooled_columns", "register", "registered", "score_columns",
    "selected", "tensor_columns", "trajectory_columns", "unregister", "unvaried_columns",
]  # fmt: skip

RESERVED = frozenset(
    """
    suite revision step stage key tokens_seen tokens learning_rate phase phase_label weights_sha256 duplicate_of variant
    tensors name n more load_s probe_s wall_s peak_bytes device run_id arm schedule parameters optimizer seed status
    train_loss_nats weights gap gap_se gap_lo gap_hi lone prev next kappa kappa_lower kappa_upper
    """.split()  # noqa: SIM905 - one line of names reads better than fifty quotes
)
"""Columns of shards and tables that no measurement may use."""

M = TypeVar(
    "M", TokenMeasurement, TensorMeasurement, CheckpointMeasurement, OutcomeMeasurement, HiddenMeasurement
)

_registered: dict[str, AnyMeasurement] = {}


def register(measurement: AnyMeasurement) -> AnyMeasurement:
    """Register ``measurement``; raises UsageError, which names both, if a name or column is taken."""
    name = measurement.name
    if _registered.get(name, measurement) is not measurement:
        raise UsageError(
            f"two measurements are called {name!r}: {_where(_registered[name])} and {_where(measurement)}"
        )
    taken = {column.name: other for other in _registered.values() for column in other.columns}
    seen: set[str] = set()
    for column in measurement.columns:
        if column.name in RESERVED:
            raise UsageError(
                f"measurement {name!r}: its column {column.name!r} is one that every shard or table has"
            )
        other = taken.get(column.name, measurement)
        if other is not measurement or column.name in seen:
            raise UsageError(
                f"column {column.name!r} of measurement {name!r} is a column of {other.name!r} already"
            )
        seen.add(column.name)
    if isinstance(measurement, TokenMeasurement):
        _check_values(measurement)
    if not measurement.columns:
        raise UsageError(f"measurement {name!r} has no columns: wanted at least one")
    _registered[name] = measurement
    return measurement


def _check_values(measurement: TokenMeasurement) -> None:
    for other in _registered.values():
        if isinstance(other, TokenMeasurement) and other is not measurement:
            for value in measurement.values.keys() & other.values.keys():
                raise UsageError(
                    f"measurement {measurement.name!r}: its value {value!r} is one of {other.name!r} already"
                )


def _where(measurement: AnyMeasurement) -> str:
    hooks = ("per_token", "of_tensor", "of_model", "of_outcome", "observe")
    hook = next(getattr(measurement, name) for name in hooks if hasattr(measurement, name))
    columns = ", ".join(column.name for column in measurement.columns)
    return f"that in {getattr(hook, '__code__', hook).co_filename} ({columns})"


def unregister(name: str) -> None:
    """Remove a registered measurement, unless it is a core one."""
    if name not in MEASUREMENTS:
        _registered.pop(name, None)


def registered() -> tuple[AnyMeasurement, ...]:
    """All measurements, the core ones first."""
    load_plugins()
    return tuple(_registered.values())


def lookup(name: str) -> AnyMeasurement:
    """The measurement ``name``; raises UsageError with the nearest names."""
    if name not in MEASUREMENTS:
        load_plugins()
    if name not in _registered:
        raise unknown_name("measurement", name, _registered)
    return _registered[name]


def selected(names: Iterable[str], level: type[M]) -> list[M]:
    """The measurements ``names`` that are of the class ``level``."""
    return [each for each in map(lookup, names) if isinstance(each, level)]


def further(names: Iterable[str]) -> tuple[str, ...]:
    """The ``names`` that are not core measurements."""
    return tuple(name for name in names if name not in MEASUREMENTS)


def installed(names: Iterable[str]) -> list[str]:
    """The ``names`` that are registered; a shard may hold columns of others."""
    there = {each.name for each in registered()}
    return [name for name in names if name in there]


def parse_measurements(names: Sequence[str]) -> tuple[str, ...]:
    """The core measurements, then ``names``, without repeats; raises UsageError for one that is not registered."""
    for name in names:
        lookup(name)
    return tuple(dict.fromkeys([*MEASUREMENTS, *names]))


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


def find_column(name: str) -> Column:
    """The column ``name``; raises KeyError if no measurement has it."""
    for _, column in columns():
        if column.name == name:
            return column
    raise KeyError(name)


_CORE = (loss, divergence, agreement, moments, grid_fit)
_FURTHER = (calibration_outcome, outliers, anisotropy, head_rank, weight_norm, flatness)
for _built_in in (*_CORE, *_FURTHER):
    register(_built_in.MEASUREMENT)
