"""The registry of measurements: what it takes, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pipeline.base.errors import UsageError
from pipeline.base.plugins import Registry
from pipeline.measurements.measurement import (
    AnyMeasurement,
    CheckpointMeasurement,
    HiddenMeasurement,
    OutcomeMeasurement,
    TensorMeasurement,
    TokenMeasurement,
)
from pipeline.spec import MEASUREMENTS

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
Member = TypeVar("Member", bound=AnyMeasurement)


def _place(measurement: AnyMeasurement) -> str:
    """File and columns of ``measurement``: all measurements of one level are of one class."""
    hooks = ("per_token", "of_tensor", "of_model", "of_outcome", "observe")
    hook = next(getattr(measurement, name) for name in hooks if hasattr(measurement, name))
    columns = ", ".join(column.name for column in measurement.columns)
    return f"that in {getattr(hook, '__code__', hook).co_filename} ({columns})"


_MEASUREMENTS: Registry[AnyMeasurement] = Registry("measurement", "pipeline.measurements", _place)


def register(measurement: Member) -> Member:
    """Register ``measurement``; raises UsageError, which names both, if a name or column is taken."""
    name = measurement.name
    others = [other for other in _MEASUREMENTS.known() if other.name != name]
    taken = {column.name: other.name for other in others for column in other.columns}
    for column in measurement.columns:
        if column.name in RESERVED:
            raise UsageError(
                f"measurement {name!r}: its column {column.name!r} is one that every shard or table has"
            )
        if column.name in taken:
            raise UsageError(
                f"column {column.name!r} of measurement {name!r} is a column of {taken[column.name]!r} already"
            )
        taken[column.name] = name
    if isinstance(measurement, TokenMeasurement):
        _check_values(measurement, others)
    if not measurement.columns:
        raise UsageError(f"measurement {name!r} has no columns: wanted at least one")
    _MEASUREMENTS.register(measurement)
    return measurement


def _check_values(measurement: TokenMeasurement, others: Iterable[AnyMeasurement]) -> None:
    for other in others:
        if isinstance(other, TokenMeasurement):
            for value in measurement.values.keys() & other.values.keys():
                raise UsageError(
                    f"measurement {measurement.name!r}: its value {value!r} is one of {other.name!r} already"
                )


def unregister(name: str) -> None:
    """Remove a registered measurement, unless it is a core one."""
    if name not in MEASUREMENTS:
        _MEASUREMENTS.remove(name)


def registered() -> tuple[AnyMeasurement, ...]:
    """All measurements: the core ones in their order, then the others by name."""
    core = [_MEASUREMENTS.find(name) for name in MEASUREMENTS]
    return (*core, *(each for each in _MEASUREMENTS if each.name not in MEASUREMENTS))


def lookup(name: str) -> AnyMeasurement:
    """The measurement ``name``; raises UsageError with the nearest names."""
    return _MEASUREMENTS.find(name)


def selected(names: Iterable[str], level: type[M]) -> list[M]:
    """The measurements ``names`` that are of the class ``level``."""
    return [each for each in map(lookup, names) if isinstance(each, level)]


def further(names: Iterable[str]) -> tuple[str, ...]:
    """The ``names`` that are not core measurements."""
    return tuple(name for name in names if name not in MEASUREMENTS)


def of_fp32(names: Iterable[str]) -> set[str]:
    """The ``names`` that are registered and have their columns in the row of fp32 only."""
    return {name for name in installed(names) if lookup(name).level in ("checkpoint", "hidden")}


def installed(names: Iterable[str]) -> list[str]:
    """The ``names`` that are registered; a shard may hold columns of others."""
    there = {each.name for each in registered()}
    return [name for name in names if name in there]


def parse_measurements(names: Sequence[str]) -> tuple[str, ...]:
    """The core measurements, then ``names``, without repeats; raises UsageError for one that is not registered."""
    for name in names:
        lookup(name)
    return tuple(dict.fromkeys([*MEASUREMENTS, *names]))
