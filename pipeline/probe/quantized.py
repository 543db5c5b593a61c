"""Turns a loaded model into one that advances all variants at once, and measures every quantized tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError, UsageError
from pipeline.measurements import QuantizedWeight, TensorMeasurement
from pipeline.measurements.hooks import tensor_values
from pipeline.probe.layers import LinearSite, VariantLinear, linear_sites, replace_module
from pipeline.quantize import Quantizer, Variant, decoded
from pipeline.quantize.variant import require_sites


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
        """From the ``values`` of all measurements of the tensor ``name`` with ``n`` elements."""
        core = {each.name for each in dataclasses.fields(cls)}
        more = {column: value for column, value in values.items() if column not in core}
        return cls(name, n, **{key: value for key, value in values.items() if key in core}, more=more)

    def row(self) -> dict[str, Any]:
        """As plain values, one per field of the shard's struct."""
        row = {**vars(self), **self.more}
        del row["more"]
        return row


@torch.inference_mode()
def expand(
    model: nn.Module,
    variants: tuple[Variant, ...],
    vocab_rows: int | None,
    measurements: Sequence[TensorMeasurement],
) -> dict[Variant, tuple[TensorStatistics, ...]]:
    """Replaces every quantizable layer of ``model`` by one that holds a weight per variant.

    Each weight is read once: its moments, its grid under every variant and the fit to it come from the same
    pass. ``vocab_rows`` is the number of real rows of the head; the rows beyond pad the vocabulary, are never
    trained and count in no statistic.

    Returns the statistics per variant, in depth order.
    """
    found: dict[Variant, list[TensorStatistics]] = {variant: [] for variant in variants}
    sites = linear_sites(model)
    require_rules(variants, sites)
    for site in sites:
        if site.is_head and not any(variant.head for variant in variants):
            continue
        stacked, statistics = expand_site(site, variants, vocab_rows, measurements)
        replace_module(model, site.name, VariantLinear(stacked, site.module.bias))  # type: ignore[arg-type]
        for variant, row in statistics.items():
            found[variant].append(row)
    return {variant: tuple(rows) for variant, rows in found.items()}


def expand_site(
    site: LinearSite,
    variants: tuple[Variant, ...],
    vocab_rows: int | None,
    measurements: Sequence[TensorMeasurement],
) -> tuple[Tensor, dict[Variant, TensorStatistics]]:
    """The weights of one layer under every variant, (V, out, in), and their statistics where it is quantized."""
    weight = site.weight()
    counted = weight[:vocab_rows] if site.is_head else weight
    once, each_variant = ([m for m in measurements if m.per_variant is wanted] for wanted in (False, True))
    stored = QuantizedWeight(site.name, counted, None, Variant())
    of_weight = tensor_values(once, stored)

    def found(weight: QuantizedWeight) -> TensorStatistics:
        return TensorStatistics.of(
            site.name, counted.numel(), {**of_weight, **tensor_values(each_variant, weight)}
        )

    stacked = weight.new_empty(len(variants), *weight.shape)
    statistics: dict[Variant, TensorStatistics] = {}
    for index, variant in enumerate(variants):
        quantizer = variant.quantizer_of(site.name, is_head=site.is_head)
        if quantizer is None:
            stacked[index] = weight
            if (
                variant.is_fp32 and not site.is_head
            ):  # fp32 lists the block weights, whatever else was asked for
                statistics[variant] = found(dataclasses.replace(stored, variant=variant))
            continue
        encoded = quantizer.encode(weight)
        stacked[index] = decoded(quantizer, encoded, weight)
        rows = counted.shape[0]
        steps = quantizer.grid_steps(weight, encoded)
        steps = None if steps is None else steps[:rows]
        row = found(QuantizedWeight(site.name, counted, stacked[index, :rows], variant, quantizer, steps))
        if row.relative_error is None or not math.isfinite(row.relative_error):
            refuse_values(site.name, quantizer, row.absmax)
        statistics[variant] = row
    return stacked, statistics


def require_rules(variants: Iterable[Variant], sites: Sequence[LinearSite]) -> None:
    """``CheckpointError`` where a rule of ``variants`` decides for none of ``sites``."""
    layers = [site.name for site in sites if not site.is_head]
    head = next((site.name for site in sites if site.is_head), None)
    try:
        require_sites(variants, layers, head)
    except UsageError as error:
        raise CheckpointError(str(error)) from error


def refuse_values(name: str, quantizer: Quantizer, absmax: float) -> NoReturn:
    """CheckpointError for finite weights whose quantized values are not, or are not zero where all weights are."""
    raise CheckpointError(
        f"{name} cannot be quantized to {quantizer}: its weights reach {absmax:.2g}, and their quantized values are "
        "not finite, or not zero where all weights are (a range beyond float32, or a fault of the quantizer)"
    )
