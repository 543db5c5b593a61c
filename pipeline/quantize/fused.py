"""The fused kernel as a function: pack a weight under several schemes and keep the sums of its statistics.

Needs Triton, so nothing imports this module but the GPU path. The pure verbs stay the definition.

Legend: S = schemes, O = out_features, I = in_features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.quantize.kernel import FIT_SUMS, FULL, GRID, HALF, PAIR, ROW_SUMS, quantize_kernel
from pipeline.quantize.launch import launch
from pipeline.spec import Scheme

WIDEST = 32_768
"""A row is held in registers by one program; wider weights do not fit."""


@dataclass(frozen=True)
class PackedWeight:
    """One weight under S schemes; None among the schemes stands for the stored weight."""

    operand: Tensor
    """float16 (S, O, 3 I): per row [low | high | high]. Empty where packed as float32."""
    full: Tensor
    """float32 (S, O, I) where packed as float32, else empty."""
    scale: Tensor
    """float32 (S, O): what a product with the operand is multiplied by."""
    three: tuple[bool, ...]
    """Per scheme whether the low block counts; without, high is exact."""
    moments: Tensor
    """float64 (O, ROW_SUMS)"""
    fit: Tensor
    """float64 (S, O, FIT_SUMS)"""


def pack(weight: Tensor, schemes: tuple[Scheme | None, ...], full: bool = False) -> PackedWeight:
    """Packs ``weight`` (O, I), any floating dtype and strides, under all ``schemes`` in one pass.

    ``full`` asks for float32 values instead of operands of split products. TypeError for a scheme whose grid the
    kernel does not compute.
    """
    for scheme in schemes:
        if scheme is not None and type(scheme) is not Scheme:
            raise TypeError(
                f"cannot pack {type(scheme).__name__} {scheme}: wanted a Scheme, whose grid the kernel computes"
            )
    rows, width = weight.shape
    if width > WIDEST:
        raise CheckpointError(
            f"a weight with {width} in_features: the GPU path takes {WIDEST} at most, use --device cpu"
        )
    modes = tuple(FULL if full else _mode(scheme, weight) for scheme in schemes)
    groups = [width if scheme is None else min(scheme.group_size or width, width) for scheme in schemes]

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=weight.device)

    count = len(schemes)
    packed = PackedWeight(
        operand=empty(count, 0 if full else rows, 3 * width, dtype=torch.float16),
        full=empty(count, rows if full else 0, width, dtype=torch.float32),
        scale=empty(count, rows, dtype=torch.float32),
        three=tuple(mode == PAIR for mode in modes),
        moments=empty(rows, ROW_SUMS, dtype=torch.float64),
        fit=empty(count, rows, FIT_SUMS, dtype=torch.float64),
    )
    block = triton.next_power_of_2(width)
    launch(
        quantize_kernel, (rows,), weight, packed.operand, packed.full, packed.scale, packed.moments, packed.fit,
        weight.stride(0), weight.stride(1), width,
        SCHEMES=count,
        BITS=tuple(0 if scheme is None else scheme.bits for scheme in schemes),
        SYM=tuple(scheme is not None and scheme.symmetric for scheme in schemes),
        PACK=modes,
        GROUP=tuple(groups),
        GROUPS_UP=tuple(triton.next_power_of_2(triton.cdiv(width, size)) for size in groups),
        GROUP_UP=tuple(triton.next_power_of_2(size) for size in groups),
        BLOCK=block,
        num_warps=4 if block <= 4096 else 8 if block <= 8192 else 16,
        enable_fp_fusion=False,
    )  # fmt: skip
    return packed


def _mode(scheme: Scheme | None, weight: Tensor) -> int:
    if scheme is None:
        return HALF if weight.dtype in (torch.float16, torch.bfloat16) else PAIR
    whole_row = scheme.group_size is None or scheme.group_size >= weight.shape[1]
    return GRID if whole_row else PAIR


def summarise(packed: PackedWeight, rows: int | None = None) -> Tensor:
    """float64 (4 + 2 S) on the weight's device, of its first ``rows`` rows: mean, std, absmax, excess kurtosis; then
    per scheme relative error and boundary fraction (as ``statistics.py`` defines them).

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
    relative_S = torch.where(square_S > 0, (error_S / square_S).sqrt(), 0.0)
    n_S = torch.full_like(
        boundary_S, count * mean_O.shape[0]
    )  # by a constant, a GPU would multiply by its reciprocal
    fits = torch.stack([relative_S, boundary_S / n_S], dim=1).flatten()
    return torch.cat([torch.stack([mean, variance.sqrt(), absmax_O.max(), kurtosis]), fits])


def row_norms(packed: PackedWeight) -> Tensor:
    """float32 (S, O): an upper bound of the Euclidean norm of every packed row."""
    return packed.fit[..., 3].sqrt().float() * (1.0 + 1e-6)
