"""Turns a loaded model into one that advances all variants at once, and measures every quantized tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError, UsageError
from pipeline.probe.layers import LinearSite, VariantLinear, linear_sites, replace_module
from pipeline.quantize import Quantizer, Variant, decoded
from pipeline.quantize.statistics import grid_fit, moments
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


@torch.inference_mode()
def expand(
    model: nn.Module, variants: tuple[Variant, ...], vocab_rows: int | None
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
        stacked, statistics = expand_site(site, variants, vocab_rows)
        replace_module(model, site.name, VariantLinear(stacked, site.module.bias))  # type: ignore[arg-type]
        for variant, row in statistics.items():
            found[variant].append(row)
    return {variant: tuple(rows) for variant, rows in found.items()}


def expand_site(
    site: LinearSite, variants: tuple[Variant, ...], vocab_rows: int | None
) -> tuple[Tensor, dict[Variant, TensorStatistics]]:
    """The weights of one layer under every variant, (V, out, in), and their statistics where it is quantized."""
    weight = site.weight()
    counted = weight[:vocab_rows] if site.is_head else weight
    moment = moments(counted)
    unquantized = TensorStatistics(
        site.name, **dataclasses.asdict(moment), relative_error=None, boundary_fraction=None
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
                statistics[variant] = unquantized
            continue
        encoded = quantizer.encode(weight)
        stacked[index] = decoded(quantizer, encoded, weight)
        rows = counted.shape[0]
        steps = quantizer.grid_steps(weight, encoded)
        fit = grid_fit(counted, stacked[index, :rows], None if steps is None else steps[:rows])
        if not math.isfinite(fit.relative_error):
            refuse_values(site.name, quantizer, moment.absmax)
        statistics[variant] = dataclasses.replace(unquantized, **dataclasses.asdict(fit))
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
