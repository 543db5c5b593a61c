"""Checked calls of the hooks, used by every backend.

A hook that raises, or returns something else than it declares, fails the checkpoint with the measurement's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.base.errors import CheckpointError, CollapseError
from pipeline.measurements import (
    CheckpointMeasurement,
    HiddenMeasurement,
    OutcomeMeasurement,
    TensorMeasurement,
    TokenMeasurement,
)
from pipeline.measurements.measurement import (
    AnyMeasurement,
    HiddenObserver,
    Moments,
    QuantizedWeight,
    TokenBlock,
    Values,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.quantize import CalibrationOutcome

M = TypeVar("M", bound=AnyMeasurement)


def token_values(
    measurements: Iterable[TokenMeasurement], logits_VPK: Tensor, targets_P: Tensor
) -> dict[str, Tensor]:
    """(V, P) of every value of ``measurements`` in one block of predictions."""
    block = TokenBlock(logits_VPK, targets_P)
    found: dict[str, Tensor] = {}
    for each in measurements:
        with _named(each):
            given = each.per_token(block)
        _require(each, "values", given.keys(), each.values)
        for name, value in given.items():
            wanted = (logits_VPK.shape[0], targets_P.shape[0])
            if tuple(value.shape) != wanted:
                raise CheckpointError(
                    f"measurement {each.name!r} gave {name!r} the shape {tuple(value.shape)}: wanted {wanted}"
                )
            found[name] = value
    return found


def token_columns(
    measurements: Iterable[TokenMeasurement], values: Mapping[str, np.ndarray], batches: int
) -> dict[str, Any]:
    """Every column of ``measurements``, of one variant, from its ``values`` (N, P)."""
    return _columns(
        measurements, lambda each: each.summarise({name: values[name] for name in each.values}, batches)
    )


def tensor_values(measurements: Iterable[TensorMeasurement], weight: QuantizedWeight) -> dict[str, Any]:
    """Every column of ``measurements`` for one weight under one variant."""
    return _columns(measurements, lambda each: each.of_tensor(weight))


def outcome_values(
    measurements: Iterable[OutcomeMeasurement], outcome: CalibrationOutcome | None
) -> dict[str, Any]:
    """Every column of ``measurements`` for one weight under one variant; ``outcome``: None where not calibrated."""
    return _columns(measurements, lambda each: each.of_outcome(outcome))


def checkpoint_values(
    measurements: Sequence[CheckpointMeasurement],
    model: torch.nn.Module,
    tokens_NT: Tensor,
    moments: Moments | None = None,
) -> dict[str, Any]:
    """Every column of ``measurements`` for the unquantized ``model``; ``moments``: Adam's state beside it."""
    return _columns(
        measurements,
        lambda each: each.of_model(model, tokens_NT, *([moments] if each.takes_moments else [])),
    )


def checkpoint_notes(measurements: Sequence[CheckpointMeasurement], columns: Mapping[str, Any]) -> list[str]:
    """What ``measurements`` say of their ``columns``."""
    return [
        note
        for each in measurements
        for note in each.notes({column.name: columns[column.name] for column in each.columns})
    ]


class HiddenStates:
    """The observers of one checkpoint's residual stream."""

    def __init__(self, measurements: Iterable[HiddenMeasurement], layers: int) -> None:
        """``layers``: decoder layers of the model."""
        self._observers: list[tuple[HiddenMeasurement, HiddenObserver]] = []
        for each in measurements:
            with _named(each):
                self._observers.append((each, each.observe(layers)))

    def add(self, layer: int, hidden_RD: Tensor) -> None:
        """The residual stream after decoder layer ``layer`` for the next R tokens, float32 (R, D)."""
        for each, observer in self._observers:
            with _named(each):
                observer.add(layer, hidden_RD)

    def columns(self) -> dict[str, Any]:
        """Every column of the measurements, after the last layer."""
        found: dict[str, Any] = {}
        for each, observer in self._observers:
            with _named(each):
                given = observer.values()
            found |= checked_columns(each, given)
        return found


def _columns(measurements: Iterable[M], call: Callable[[M], Values]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in measurements:
        with _named(each):
            given = call(each)
        found |= checked_columns(each, given)
    return found


def refuse_whole_models(measurements: Iterable[CheckpointMeasurement]) -> None:
    """Raise CheckpointError if there is any of these measurements, which need the whole model."""
    for each in measurements:
        raise CheckpointError(
            f"measurement {each.name!r} needs the whole model in memory, and this checkpoint is measured layer by "
            "layer: leave it out, or measure on a larger device"
        )


def checked_columns(measurement: AnyMeasurement, given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` in the order and types of the columns; raises CheckpointError if it differs."""
    _require(measurement, "columns", given.keys(), [column.name for column in measurement.columns])
    found: dict[str, Any] = {}
    for column in measurement.columns:
        value = given[column.name]
        try:
            found[column.name] = None if value is None else _AS[column.dtype](value)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"measurement {measurement.name!r} gave {column.name!r} the value {value!r}: wanted {column.dtype}"
            ) from error
    return found


_AS: dict[str, Callable[[Any], Any]] = {
    "float64": float,
    "int64": int,
    "string": str,
    "list<float64>": lambda values: [float(value) for value in values],
}


def _require(measurement: AnyMeasurement, what: str, given: Iterable[str], wanted: Iterable[str]) -> None:
    if set(given) != set(wanted):
        raise CheckpointError(
            f"measurement {measurement.name!r} gave the {what} {', '.join(sorted(given))}: "
            f"wanted {', '.join(sorted(wanted))}"
        )


@contextmanager
def _named(measurement: AnyMeasurement) -> Iterator[None]:
    """Context manager: an error names its measurement; our own errors and out-of-memory errors pass."""
    try:
        yield
    except (CollapseError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"measurement {measurement.name!r} failed ({reason})") from error
