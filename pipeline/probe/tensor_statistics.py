"""Tensor-level statistics of each quantized weight matrix, by the measurements' hooks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from pipeline.base.errors import CheckpointError
from pipeline.measurements import OutcomeMeasurement, QuantizedWeight, TensorMeasurement, selected
from pipeline.measurements.hooks import outcome_values, tensor_values
from pipeline.quantize import Quantizer, Variant

if TYPE_CHECKING:
    from pipeline.models.variant_linear import Plan, ProbeLinear


@dataclass(frozen=True)
class TensorStatistics:
    """One quantized weight under one variant."""

    name: str
    n: int
    mean: float
    std: float
    absmax: float
    kurtosis: float
    relative_error: float | None
    """None under fp32, which has no grid."""
    boundary_fraction: float | None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Columns of further measurements."""

    @classmethod
    def of(cls, name: str, n: int, values: Mapping[str, Any]) -> TensorStatistics:
        """Make the statistics of the tensor ``name`` with ``n`` elements from the ``values`` of all measurements."""
        core = {each.name for each in dataclasses.fields(cls)}
        more = {column: value for column, value in values.items() if column not in core}
        return cls(name, n, **{key: value for key, value in values.items() if key in core}, more=more)

    def row(self) -> dict[str, Any]:
        """Plain values, one per field of the shard's struct."""
        row = {**vars(self), **self.more}
        del row["more"]
        return row


def measure_weight(
    linear: ProbeLinear,
    weight: Tensor,
    values: Sequence[Tensor],
    steps: Sequence[Tensor | None],
    measurements: Sequence[TensorMeasurement],
) -> dict[Variant, TensorStatistics]:
    """All of :func:`weight_columns` as statistics. Raises CheckpointError if quantized values are not finite."""
    found: dict[Variant, TensorStatistics] = {}
    for variant, columns in weight_columns(linear, weight, values, steps, measurements).items():
        row = found[variant] = TensorStatistics.of(linear.name, linear.counted_values, columns)
        quantizer = variant.quantizer_of(linear.name, is_head=linear.is_head)
        if quantizer is not None and (row.relative_error is None or not math.isfinite(row.relative_error)):
            refuse_values(linear.name, quantizer, row.absmax)
    return found


def weight_columns(
    linear: ProbeLinear,
    weight: Tensor,
    values: Sequence[Tensor],
    steps: Sequence[Tensor | None],
    measurements: Sequence[TensorMeasurement],
) -> dict[Variant, dict[str, Any]]:
    """Variant -> values of ``measurements`` for ``weight``, float32 (O, I), for every variant with statistics of it.

    ``values`` and ``steps``: the quantized weight and the weight in grid steps, per slot of the layer's packing.
    Padding rows of the vocabulary are never trained and count nowhere.
    """
    rows, packing = linear.counted_rows, linear.packing
    counted = weight[:rows]
    once, each_variant = ([m for m in measurements if m.per_variant is wanted] for wanted in (False, True))
    stored = QuantizedWeight(linear.name, counted, None, Variant())
    of_weight: dict[str, Any] | None = None
    found: dict[Variant, dict[str, Any]] = {}
    for variant, slot in zip(linear.plan.variants, packing.slots, strict=True):
        quantizer, given = packing.quantizers[slot], dataclasses.replace(stored, variant=variant)
        if not is_listed(linear, variant, quantizer):
            continue
        if of_weight is None:
            of_weight = tensor_values(once, stored)
        if quantizer is not None:
            in_steps = steps[slot]
            in_steps = None if in_steps is None else in_steps[:rows]
            given = QuantizedWeight(linear.name, counted, values[slot][:rows], variant, quantizer, in_steps)
        found[variant] = {**of_weight, **tensor_values(each_variant, given)}
    return found


def with_outcomes(
    statistics: Mapping[Variant, Sequence[TensorStatistics]], plan: Plan
) -> dict[Variant, tuple[TensorStatistics, ...]]:
    """``statistics`` with the outcome measurements of each calibrated weight."""
    measurements = selected(plan.spec.measurements, OutcomeMeasurement)
    return {
        variant: tuple(
            dataclasses.replace(
                row,
                more=row.more | outcome_values(measurements, plan.outcomes.get(row.name, {}).get(variant)),
            )
            for row in rows
        )
        for variant, rows in statistics.items()
    }


def is_listed(linear: ProbeLinear, variant: Variant, quantizer: Quantizer | None) -> bool:
    """Whether ``variant`` has statistics of the weight: it quantizes the weight, or it is fp32, which has those of
    all blocks.
    """
    return quantizer is not None or (variant.is_fp32 and not linear.is_head)


def refuse_values(name: str, quantizer: Quantizer, absmax: float) -> NoReturn:
    """Raise CheckpointError if finite weights have non-finite quantized values, or zero weights have non-zero ones."""
    raise CheckpointError(
        f"{name} cannot be quantized to {quantizer}: its weights reach {absmax:.2g}, and their quantized values are "
        "not finite, or not zero where all weights are (a range beyond float32, or a fault of the quantizer)"
    )
