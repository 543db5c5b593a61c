"""The powers of two of operands, from bounds that follow from the weights (``neox.py`` says which).

One launch per LayerNorm and the product that follows it: in torch these are thirty operations on tiny tensors, which a
GPU waits for.

Legend: S = packed weights, K = features, O = outputs of the product.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _power_below(bound):
    """The power of two p with bound * p in [2^14, 2^15); 2^15 for a bound of zero."""
    bound = tl.minimum(bound * (1.0 + 1e-5), 1e38)
    exponent = ((bound.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    power = (tl.minimum(tl.maximum(14 - exponent + 127, 27), 227) << 23).to(tl.float32, bitcast=True)
    return tl.where(bound > 0, power, 32768.0)


@triton.jit
def bounds_kernel(
    gain_ptr,  # float32 (K): LayerNorm
    shift_ptr,
    squares_ptr,  # float64 (S, O): sum of squares of each packed row
    bias_ptr,  # float32 (O)
    factor_ptr,  # float32 (1): by how much more the outputs may grow
    norm_power_ptr,  # float32 (1)
    out_power_ptr,  # float32 (S)
    width,  # K
    outs,  # O
    stride_slot,
    stride_row,
    PRODUCT: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    slot = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    gain = tl.zeros((BLOCK,), dtype=tl.float32)
    shift = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        inside = start + at < width
        gain = tl.maximum(gain, tl.abs(tl.load(gain_ptr + start + at, mask=inside, other=0.0)))
        some = tl.load(shift_ptr + start + at, mask=inside, other=0.0)
        shift += some * some
    root = tl.sqrt(tl.zeros((1,), dtype=tl.float32) + width)
    bound = root * tl.max(gain, axis=0) + tl.sqrt(tl.sum(shift, axis=0))
    if slot == 0:
        tl.store(norm_power_ptr + tl.arange(0, 1), _power_below(bound))
    if PRODUCT:
        square = tl.zeros((BLOCK,), dtype=tl.float64)
        bias = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, outs, BLOCK):
            inside = start + at < outs
            row = squares_ptr + slot * stride_slot + (start + at) * stride_row
            square = tl.maximum(square, tl.load(row, mask=inside, other=0.0))
            if BIAS:
                bias = tl.maximum(bias, tl.abs(tl.load(bias_ptr + start + at, mask=inside, other=0.0)))
        largest_row = tl.sqrt(tl.max(square, axis=0)).to(tl.float32)
        out = (bound * largest_row + tl.max(bias, axis=0)) * tl.load(factor_ptr)
        tl.store(out_power_ptr + slot + tl.arange(0, 1), _power_below(out))
