"""One pass over a weight: its values on several integer grids, their fit, and the tensor's moments.

The definition (``quantize.integer``) reads a weight about ten times per grid, with float32 temporaries of its size.
Here a program reads a row once, 2 or 4 bytes per weight, and writes the packed weight of each grid (further reads
of the row come from the cache). It is bound by memory, the definition by its temporaries.

The values are bit-equal to the definition on the CPU: the same float32 operations in the same order, division correctly
rounded (``div_rn``; a plain ``/`` is not on a GPU) and no fused multiply-add (launched with fusion off).
Rounding half to even is adding and subtracting 1.5 * 2^23, exact for |x| < 2^22; a grid index is at most
255.

Sums are float64: moments centred on the row's own mean, so that nothing cancels; the rows are merged in
float64 (``packing.py``).

A weight is packed as the right-hand operand of a split product (``pipeline.probe.gpu.product``): three float16 blocks
side by side per row, [low | high | high], of which an exact float16 weight uses the last two.

Shape suffixes: G = groups of a row, S = group size, both rounded up to powers of two with padding masked to 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

GRID = 0
"""Packed as the integers q - zero, exact in float16; the step beside them. For one group per row."""
HALF = 1
"""Packed as the values times a power of two per row, in float16: exact for stored float16 and bfloat16."""
PAIR = 2
"""Packed as two float16 halves of the values times a power of two per row: 22 bits of any value."""
FULL = 3
"""Packed as float32 values."""

ROW_SUMS = 5
"""Per row: mean; second, third and fourth power sums about it; largest absolute value."""
FIT_SUMS = 4
"""Per row and grid: squared error, sum of squares, count at a rounding boundary, squares of the quantized row."""


@triton.jit
def _rint(x):
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _store_moments(w_S, inside_S, count, out_ptr):
    x = w_S.to(tl.float64)
    mean = tl.sum(x, axis=0) / count
    centred = tl.where(inside_S, x - mean, 0.0)
    square = centred * centred
    tl.store(out_ptr, mean)
    tl.store(out_ptr + 1, tl.sum(square, axis=0))
    tl.store(out_ptr + 2, tl.sum(square * centred, axis=0))
    tl.store(out_ptr + 3, tl.sum(square * square, axis=0))
    tl.store(out_ptr + 4, tl.max(tl.abs(w_S), axis=0).to(tl.float64))


@triton.jit
def _on_grid(w_GS, BITS: tl.constexpr, SYM: tl.constexpr):
    """(steps = q - zero, scale, w / scale) of a row cut into groups."""
    lo_G = tl.min(w_GS, axis=1)
    hi_G = tl.max(w_GS, axis=1)
    if SYM:
        low = -(2.0 ** (BITS - 1) - 1.0)
        high = 2.0 ** (BITS - 1) - 1.0
        scale_G = tl.div_rn(tl.maximum(-lo_G, hi_G), tl.zeros_like(lo_G) + high)
        divisor_G = tl.where(scale_G > 0, scale_G, float("inf"))
        zero_G = tl.zeros_like(scale_G)
    else:
        low = 0.0
        high = 2.0**BITS - 1.0
        lo_G = tl.minimum(lo_G, 0.0)
        hi_G = tl.maximum(hi_G, 0.0)
        scale_G = tl.div_rn(hi_G - lo_G, tl.zeros_like(lo_G) + high)
        divisor_G = tl.where(scale_G > 0, scale_G, float("inf"))
        zero_G = tl.minimum(tl.maximum(_rint(tl.div_rn(-lo_G, divisor_G)), 0.0), high)
    ratio_GS = tl.div_rn(w_GS, tl.zeros_like(w_GS) + divisor_G[:, None])
    index_GS = tl.minimum(tl.maximum(_rint(ratio_GS) + zero_G[:, None], low), high)
    return index_GS - zero_G[:, None], scale_G, ratio_GS


@triton.jit
def _row_power(largest):
    """(2^p, 2^-p), normal float32 numbers with largest * 2^p in [2^14, 2^15) wherever they allow it."""
    exponent = ((largest.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    exponent = tl.minimum(tl.maximum(exponent, -112), 127)
    up = ((14 - exponent + 127) << 23).to(tl.float32, bitcast=True)
    down = ((exponent - 14 + 127) << 23).to(tl.float32, bitcast=True)
    return up, down


@triton.jit
def quantize_kernel(
    w_ptr,  # (rows, width) in the stored dtype, any strides
    packed_ptr,  # float16 (schemes, rows, 3 * width): low (PAIR only), high, high
    full_ptr,  # float32 (schemes, rows, width), for FULL
    scale_ptr,  # float32 (schemes, rows): the step of GRID, the reciprocal of a row's power of two
    moments_ptr,  # float64 (rows, ROW_SUMS)
    fit_ptr,  # float64 (schemes, rows, FIT_SUMS)
    stride_row,
    stride_column,
    width,
    SCHEMES: tl.constexpr,  # how many, and then of each in turn:
    BITS: tl.constexpr,  # 0 = the stored values themselves
    SYM: tl.constexpr,
    PACK: tl.constexpr,
    GROUP: tl.constexpr,  # group size
    GROUPS_UP: tl.constexpr,  # groups per row and group size, rounded up to powers of two
    GROUP_UP: tl.constexpr,
    BLOCK: tl.constexpr,  # width rounded up to a power of two
):
    rows = tl.num_programs(0)
    row = tl.program_id(0).to(tl.int64)
    source = w_ptr + row * stride_row
    at = tl.arange(0, BLOCK)
    whole = tl.load(source + at * stride_column, mask=at < width, other=0.0).to(tl.float32)
    _store_moments(whole, at < width, width, moments_ptr + row * 5)
    for i in tl.static_range(SCHEMES):
        slot = i * rows + row
        g = tl.arange(0, GROUPS_UP[i])[:, None]
        s = tl.arange(0, GROUP_UP[i])[None, :]
        column = g * GROUP[i] + s
        inside = (s < GROUP[i]) & (column < width)
        w = tl.load(source + column * stride_column, mask=inside, other=0.0).to(tl.float32)
        if BITS[i] == 0:
            steps = w
            value = w
            boundary = 0.0
            scale = 1.0
        else:
            steps, scale_G, ratio = _on_grid(w, BITS[i], SYM[i])
            value = steps * scale_G[:, None]
            distance = tl.abs((ratio - tl.floor(ratio)) - 0.5)
            boundary = tl.sum(tl.sum(tl.where(inside & (distance < 0.1), 1.0, 0.0), axis=1), axis=0)
            scale = tl.max(scale_G, axis=0)
        error = (value - w).to(tl.float64)
        wide = w.to(tl.float64)
        square = value.to(tl.float64) * value.to(tl.float64)
        fit = fit_ptr + slot * 4
        tl.store(fit, tl.sum(tl.sum(error * error, axis=1), axis=0))
        tl.store(fit + 1, tl.sum(tl.sum(wide * wide, axis=1), axis=0))
        tl.store(fit + 2, boundary)
        tl.store(fit + 3, tl.sum(tl.sum(square, axis=1), axis=0))
        if PACK[i] == 3:
            tl.store(full_ptr + slot * width + column, value, mask=inside)
        else:
            if PACK[i] == 0:
                high = steps.to(tl.float16)
            else:
                up, scale = _row_power(tl.max(tl.max(tl.abs(value), axis=1), axis=0))
                high = (value * up).to(tl.float16)
            packed = packed_ptr + slot * (3 * width) + column
            if PACK[i] == 2:
                tl.store(packed, (value * up - high.to(tl.float32)).to(tl.float16), mask=inside)
            tl.store(packed + width, high, mask=inside)
            tl.store(packed + 2 * width, high, mask=inside)
            tl.store(scale_ptr + slot, scale)
