"""Turns a loaded model into one that advances all variants at once, and measures every quantized tensor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.probe.layers import LinearSite, VariantLinear, linear_sites, replace_module
from pipeline.quantize import choose_params, grid_fit, moments, round_trip
from pipeline.spec import Variant


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
    for site in linear_sites(model):
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
        if variant.scheme is None or (site.is_head and not variant.head):
            stacked[index] = weight
            if not site.is_head:  # fp32 lists the block weights, whatever other variants were asked for
                statistics[variant] = unquantized
            continue
        grid = choose_params(weight, variant.scheme)
        stacked[index] = round_trip(weight, grid)
        if not torch.isfinite(grid.scale).all():
            refuse_range(site.name, variant, moment.absmax)
        rows = counted.shape[0]
        counted_grid = dataclasses.replace(grid, scale=grid.scale[:rows], zero_point=grid.zero_point[:rows])
        fit = grid_fit(counted, stacked[index, :rows], counted_grid)
        statistics[variant] = dataclasses.replace(unquantized, **dataclasses.asdict(fit))
    return stacked, statistics


def refuse_range(name: str, variant: Variant, absmax: float) -> NoReturn:
    """CheckpointError for finite weights whose range overflows float32."""
    raise CheckpointError(
        f"{name} cannot be quantized to {variant.scheme}: its weights reach {absmax:.2g}, "
        "and their range is beyond float32"
    )
