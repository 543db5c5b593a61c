"""The columns of one block by GPTQ in one launch, where the definition (``quantize.gptq``) takes seven per column.

A program holds a few rows of the block in registers and goes through its columns: it takes a column out by a masked
sum, rounds it, and moves the columns that follow. The same float64 and float32 operations in the same order as the
definition, divisions correctly rounded, without fused multiply-add. Rounding half to even is adding and subtracting
1.5 * 2^52, exact for |x| < 2^51; what is larger is clamped to the grid anyway.

Suffixes: R = rows of a program, B = columns of the block, rounded up to a power of two with padding masked to 0.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pipeline.quantize.triton.launch import ceil_div, launch, power_of_2

ROWS = 8
"""Rows of a program: few, so that a small matrix fills a GPU."""


@triton.jit
def gptq_block_kernel(
    w_ptr,  # float64 (columns, rows): the columns as they have been moved, each contiguous
    factor_ptr,  # float64 (columns, columns): U within the block
    scale_ptr,  # float32 (columns, rows), of each column's group
    zero_ptr,
    codes_ptr,  # float32 (columns, rows), out
    errors_ptr,  # float64 (columns, rows), out: (w - w') / U_ii
    columns,
    rows,
    stride_w,
    stride_factor,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
):
    row_R = tl.program_id(0) * R + tl.arange(0, R)
    column_B = tl.arange(0, B)
    inside_R = row_R < rows
    w_RB = tl.load(
        w_ptr + column_B[None, :] * stride_w + row_R[:, None],
        mask=inside_R[:, None] & (column_B < columns)[None, :],
        other=0.0,
    )
    for i in range(columns):
        w_R = tl.sum(tl.where((column_B == i)[None, :], w_RB, 0.0), axis=1)
        scale_R = tl.load(scale_ptr + i * rows + row_R, mask=inside_R, other=0.0)
        zero_R = tl.load(zero_ptr + i * rows + row_R, mask=inside_R, other=0.0)
        divisor_R = tl.where(scale_R > 0, scale_R, float("inf")).to(tl.float64)
        steps_R = w_R / divisor_R
        steps_R = (steps_R + 6755399441055744.0) - 6755399441055744.0
        code_R = tl.minimum(tl.maximum(steps_R + zero_R.to(tl.float64), LOW), HIGH).to(tl.float32)
        value_R = (code_R - zero_R) * scale_R
        factor_B = tl.load(factor_ptr + i * stride_factor + column_B, mask=column_B < columns, other=0.0)
        own = tl.load(factor_ptr + i * stride_factor + i)
        error_R = (w_R - value_R.to(tl.float64)) / own
        factor_B = tl.where(column_B > i, factor_B, 0.0)
        w_RB = w_RB - error_R[:, None] * factor_B[None, :]
        tl.store(codes_ptr + i * rows + row_R, code_R, mask=inside_R)
        tl.store(errors_ptr + i * rows + row_R, error_R, mask=inside_R)


def quantize_columns(
    weight_BO: Tensor, factor_BB: Tensor, scale_BO: Tensor, zero_BO: Tensor, code_range: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """``quantize.gptq.quantize_columns`` in one launch; ``weight_BO`` stays as it is."""
    columns, rows = weight_BO.shape
    codes_BO, errors_BO = scale_BO.new_empty(scale_BO.shape), weight_BO.new_empty(weight_BO.shape)
    low, high = code_range
    launch(
        gptq_block_kernel, (ceil_div(rows, ROWS),), weight_BO, factor_BB, scale_BO, zero_BO, codes_BO, errors_BO,
        columns, rows, weight_BO.stride(0), factor_BB.stride(0),
        LOW=float(low), HIGH=float(high), R=ROWS, B=power_of_2(columns),
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return codes_BO, errors_BO
