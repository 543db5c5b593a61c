"""Pack a weight under several quantizers, with the sums of its statistics, by the Triton kernel.

The kernel computes integer grids itself, bit-equal to their definition (``quantize.integer``). The values of any
other quantizer are decoded by torch, then packed: slower, not different.

Needs Triton, so nothing imports this module but the GPU path.

Legend: S = quantizers, O = out_features, I = in_features.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.base.errors import CheckpointError
from pipeline.quantize.control_variant import Perturbed
from pipeline.quantize.draws import Draws
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.perturbing import RoundingErrors, perturbed
from pipeline.quantize.quantizer import Encoded, Quantizer, decoded
from pipeline.quantize.statistics import BOUNDARY_WIDTH
from pipeline.quantize.triton.kernel import FIT_SUMS, FULL, GRID, HALF, PAIR, ROW_SUMS, quantize_kernel
from pipeline.quantize.triton.launch import ceil_div, launch, power_of_2

WIDEST = 32_768
"""Widest row: one program holds it in registers."""


@dataclass(frozen=True)
class PackedWeight:
    """One weight under S quantizers; None = the stored weight."""

    operand: Tensor
    """float16 (S, O, 3 I): per row [low | high | high]. Empty if packed as float32."""
    full: Tensor
    """float32 (S, O, I) if packed as float32, else empty."""
    scale: Tensor
    """float32 (S, O): factor of products with the operand."""
    three: tuple[bool, ...]
    """Whether the low block counts, per quantizer; if not, high is exact."""
    moments: Tensor
    """float64 (O, ROW_SUMS)"""
    fit: Tensor
    """float64 (S, O, FIT_SUMS)"""

    @property
    def row_squares(self) -> Tensor:
        """float64 (S, O): the sum of squares of every packed row."""
        return self.fit[..., 3]


def pack(
    weight: Tensor,
    quantizers: Sequence[Quantizer | None],
    full: bool = False,
    calibrated: Mapping[int, Encoded] | None = None,
    draws: Draws | None = None,
) -> PackedWeight:
    """Pack ``weight`` (O, I), any floating dtype and strides, under all ``quantizers``.

    ``full``: float32 values instead of operands of split products. ``calibrated``: of
    quantizers that need a layer's inputs, by index, the weight as they have encoded it. ``draws``: the random numbers
    of controls.
    """
    width = weight.shape[1]
    if width > WIDEST:
        raise CheckpointError(
            f"a weight with {width} in_features: the GPU path takes {WIDEST} at most, use --device cpu"
        )
    packed = _empty(weight, quantizers, full)
    moments_are_there = False
    for way, run in itertools.groupby(range(len(quantizers)), lambda index: _way(quantizers[index])):
        indices = list(run)
        if way is IntegerGrid:
            _launch(weight, packed, indices[0], [quantizers[index] for index in indices])
            moments_are_there = True
            continue
        if way is Perturbed:
            errors = RoundingErrors(weight.float().contiguous(), quantizers, calibrated, draws=draws)
            _pack_perturbed(errors, packed, indices, quantizers)
            continue
        for index in indices:
            quantizer = quantizers[index]
            assert quantizer is not None
            _pack_values(weight, packed, index, quantizer, (calibrated or {}).get(index))
    if not moments_are_there:
        scratch = _empty(weight, [None], full=True)
        _launch(weight, scratch, 0, [None])
        packed.moments.copy_(scratch.moments)
    return packed


def _way(quantizer: Quantizer | None) -> type[Quantizer]:
    """Method for the values of ``quantizer``: the kernel for an ``IntegerGrid`` and stored values; torch for
    controls, together, and for any other, one by one.
    """
    if quantizer is None or type(quantizer) is IntegerGrid:
        return IntegerGrid
    return Perturbed if isinstance(quantizer, Perturbed) else Quantizer


def _mode(quantizer: Quantizer | None, width: int, *, half: bool) -> int:
    if quantizer is None:
        return HALF if half else PAIR
    whole_row = isinstance(quantizer, IntegerGrid) and (quantizer.group_size or width) >= width
    return GRID if whole_row else PAIR


def _is_half(weight: Tensor) -> bool:
    return weight.dtype in (torch.float16, torch.bfloat16)


def _empty(weight: Tensor, quantizers: Sequence[Quantizer | None], full: bool) -> PackedWeight:
    (rows, width), count, half = weight.shape, len(quantizers), _is_half(weight)

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=weight.device)

    return PackedWeight(
        operand=empty(count, 0 if full else rows, 3 * width, dtype=torch.float16),
        full=empty(count, rows if full else 0, width, dtype=torch.float32),
        scale=empty(count, rows, dtype=torch.float32),
        three=tuple(not full and _mode(quantizer, width, half=half) == PAIR for quantizer in quantizers),
        moments=empty(rows, ROW_SUMS, dtype=torch.float64),
        fit=empty(count, rows, FIT_SUMS, dtype=torch.float64),
    )


def _launch(weight: Tensor, packed: PackedWeight, first: int, quantizers: Sequence[Quantizer | None]) -> None:
    """Fills the slots of ``packed`` from ``first`` on, and its moments with those of ``weight``."""
    (rows, width), full = weight.shape, packed.full.numel() > 0
    slots = slice(first, first + len(quantizers))
    grids = tuple(quantizer if isinstance(quantizer, IntegerGrid) else None for quantizer in quantizers)
    launch(
        quantize_kernel, (rows,), weight,
        packed.operand[slots], packed.full[slots], packed.scale[slots], packed.moments, packed.fit[slots],
        weight.stride(0), weight.stride(1), width, **_options(grids, width, half=_is_half(weight), full=full),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)  # a few per layer of a model, the same for every checkpoint
def _options(
    grids: tuple[IntegerGrid | None, ...], width: int, *, half: bool, full: bool
) -> Mapping[str, Any]:
    """Compile-time arguments of the kernel for rows of ``width`` values."""
    groups = [width if grid is None else min(grid.group_size or width, width) for grid in grids]
    block = power_of_2(width)
    return {
        "SCHEMES": len(grids),
        "BITS": tuple(0 if grid is None else grid.bits for grid in grids),
        "SYM": tuple(grid is not None and grid.symmetric for grid in grids),
        "PACK": tuple(FULL if full else _mode(grid, width, half=half) for grid in grids),
        "GROUP": tuple(groups),
        "GROUPS_UP": tuple(power_of_2(ceil_div(width, size)) for size in groups),
        "GROUP_UP": tuple(map(power_of_2, groups)),
        "BLOCK": block,
        "num_warps": 4 if block <= 4096 else 8 if block <= 8192 else 16,
        "enable_fp_fusion": False,
    }


def _pack_perturbed(
    errors: RoundingErrors,
    packed: PackedWeight,
    indices: Sequence[int],
    quantizers: Sequence[Quantizer | None],
) -> None:
    """Fills the slots ``indices`` with the weights of controls; of their sums those of squares alone, for
    ``row_squares``, mean anything.
    """
    scratch = dataclasses.replace(packed, moments=torch.empty_like(packed.moments))
    for index in indices:
        wanted = quantizers[index]
        assert isinstance(wanted, Perturbed)
        _launch(perturbed(errors, wanted.control, wanted.quantizer, wanted.matrix), scratch, index, [None])


def _pack_values(
    weight: Tensor, packed: PackedWeight, index: int, quantizer: Quantizer, encoded: Encoded | None
) -> None:
    """Fill slot ``index`` of ``packed`` with the decoded values of ``quantizer``."""
    stored = weight.float().contiguous()
    encoded = encoded or quantizer.encode(stored)
    values = decoded(quantizer, encoded, stored).contiguous()
    _launch(values, dataclasses.replace(packed, moments=torch.empty_like(packed.moments)), index, [None])
    steps = quantizer.grid_steps(stored, encoded)
    boundary = torch.full((weight.shape[0],), torch.nan, dtype=torch.float64, device=weight.device)
    if steps is not None:
        distance = (steps - steps.floor()).sub_(0.5).abs_()
        boundary = (distance < BOUNDARY_WIDTH).flatten(1).sum(dim=1).double()
    error, square = (values - stored).double().square_(), stored.double().square_()
    sums = [error.sum(dim=1), square.sum(dim=1), boundary, values.double().square_().sum(dim=1)]
    packed.fit[index] = torch.stack(sums, dim=1)


def summarise(packed: PackedWeight, rows: int | None = None) -> Tensor:
    """float64 (4 + 2 S) on the weight's device, of its first ``rows`` rows: mean, std, absmax, excess kurtosis; then
    per quantizer relative error and boundary fraction (as ``statistics.grid_fit`` defines them; NaN = has none).

    Rows are merged in float64: with u the deviation from a row's mean and d the row mean's from the whole's,
    E (u + d)^4 = E u^4 + 4 d E u^3 + 6 d^2 E u^2 + d^4.
    """
    count = packed.operand.shape[2] // 3 if packed.operand.numel() else packed.full.shape[2]
    mean_O, second_O, third_O, fourth_O, absmax_O = packed.moments[:rows].unbind(1)
    mean = mean_O.mean()
    d_O = mean_O - mean
    square_O = d_O.square()
    variance = (second_O / count + square_O).mean()
    fourth_O = fourth_O.addcmul(d_O, third_O, value=4).addcmul(square_O, second_O, value=6)
    fourth = (fourth_O / count).addcmul(square_O, square_O).mean()
    kurtosis = fourth / variance.square() - 3.0
    error_S, square_S, boundary_S, _ = packed.fit[:, :rows].sum(dim=1).unbind(1)
    relative_S = torch.where(error_S == 0, 0.0, (error_S / square_S).sqrt())
    n_S = torch.full_like(
        boundary_S, count * mean_O.shape[0]
    )  # by a constant, a GPU would multiply by its reciprocal
    fits = torch.stack([relative_S, boundary_S / n_S], dim=1).flatten()
    return torch.cat([torch.stack([mean, variance.sqrt(), absmax_O.max(), kurtosis]), fits])
