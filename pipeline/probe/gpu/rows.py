"""Row kernels: the operations between two products. All are bound by memory, so they are fused.

Rows are V equal blocks, one per variant. A *raw* product is the output of ``product.multiply``: its true value is
raw * scale[variant, column] + bias[column]. Each kernel turns raw products into operands, so that a value passes
through memory only as product -> kernel -> product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.probe.gpu.halves import store_operand, variant_bit


@triton.jit
def _true(raw_ptr, scale_ptr, bias_ptr, row, variant, column, inside, width, BIAS: tl.constexpr):
    raw = tl.load(raw_ptr + row * width + column, mask=inside, other=0.0)
    value = raw * tl.load(scale_ptr + variant * width + column, mask=inside, other=0.0)
    if BIAS:
        value += tl.load(bias_ptr + column, mask=inside, other=0.0)
    return value


@triton.jit(do_not_specialize=["rows_per_variant"])  # one binary whatever the chunk
def add_norm_kernel(
    x_ptr,  # float32 (rows, width): the residual stream, updated in place
    raw_ptr,  # raw product (rows, width), added first
    scale_ptr,
    bias_ptr,
    raw2_ptr,  # a second raw product
    scale2_ptr,
    bias2_ptr,
    gain_ptr,  # float32 (width): LayerNorm of the sum
    shift_ptr,
    power_ptr,  # float32 (1): power of two that the normalised values are multiplied by
    out_ptr,  # operand (rows, 3 width)
    gain2_ptr,  # a second LayerNorm of the same sum
    shift2_ptr,
    power2_ptr,
    out2_ptr,
    rows_per_variant,
    three,  # bit v: variant v's weights need the third block
    width,
    eps,
    ADDS: tl.constexpr,
    NORMS: tl.constexpr,
    BIAS: tl.constexpr,
    BIAS2: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    variant = tl.program_id(0) // rows_per_variant
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0)
    if ADDS > 0:
        x += _true(raw_ptr, scale_ptr, bias_ptr, row, variant, column, inside, width, BIAS)
    if ADDS > 1:
        x += _true(raw2_ptr, scale2_ptr, bias2_ptr, row, variant, column, inside, width, BIAS2)
    if ADDS > 0:
        tl.store(x_ptr + row * width + column, x, mask=inside)
    centred = tl.where(inside, x - tl.sum(x, axis=0) / width, 0.0)
    variance = tl.sum(centred * centred, axis=0) / width
    normal = centred * (1.0 / tl.sqrt_rn(variance + eps))
    use_three = variant_bit(three, variant)
    gain = tl.load(gain_ptr + column, mask=inside, other=0.0)
    shift = tl.load(shift_ptr + column, mask=inside, other=0.0)
    value = (normal * gain + shift) * tl.load(power_ptr)
    store_operand(out_ptr + row * (3 * width), column, value, inside, width, use_three)
    if NORMS > 1:
        gain = tl.load(gain2_ptr + column, mask=inside, other=0.0)
        shift = tl.load(shift2_ptr + column, mask=inside, other=0.0)
        value = (normal * gain + shift) * tl.load(power2_ptr)
        store_operand(out2_ptr + row * (3 * width), column, value, inside, width, use_three)


@triton.jit(do_not_specialize=["rows_per_variant"])  # one binary whatever the chunk
def gelu_kernel(
    raw_ptr,  # raw product (rows, width)
    scale_ptr,
    bias_ptr,
    power_ptr,  # float32 (V): power of two that the activations are multiplied by
    out_ptr,  # operand (rows, 3 width)
    rows_per_variant,
    three,
    width,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    variant = tl.program_id(0) // rows_per_variant
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    x = _true(raw_ptr, scale_ptr, bias_ptr, row, variant, column, inside, width, BIAS)
    value = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476)) * tl.load(power_ptr + variant)
    store_operand(out_ptr + row * (3 * width), column, value, inside, width, variant_bit(three, variant))


@triton.jit
def split_kernel(
    x_ptr,  # float32 (rows, width)
    out_ptr,  # operand (rows, 3 width)
    unit_ptr,  # float32 (rows): the reciprocal of the power of two that the row was multiplied by
    width,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        x = tl.load(x_ptr + row * width + start + at, mask=start + at < width, other=0.0)
        largest = tl.maximum(largest, tl.abs(x))
    # The power of two is put together from the exponent bits; -112 and 127 keep it and its reciprocal normal.
    exponent = ((tl.max(largest, axis=0).to(tl.int32, bitcast=True) >> 23) & 255) - 127
    exponent = tl.minimum(tl.maximum(exponent, -112), 127)
    power = ((14 - exponent + 127) << 23).to(tl.float32, bitcast=True)
    tl.store(unit_ptr + row, ((exponent - 14 + 127) << 23).to(tl.float32, bitcast=True))
    for start in range(0, width, BLOCK):
        column = start + at
        inside = column < width
        x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0)
        store_operand(out_ptr + row * (3 * width), column, x * power, inside, width, True)


@triton.jit
def finish_kernel(
    raw_ptr,  # raw product (rows, width), made true in place
    unit_ptr,  # float32 (rows)
    scale_ptr,  # float32 (width)
    bias_ptr,  # float32 (width)
    width,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = raw_ptr + row * width + column
    value = tl.load(at, mask=inside, other=0.0) * tl.load(unit_ptr + row)
    value *= tl.load(scale_ptr + column, mask=inside, other=0.0)
    if BIAS:
        value += tl.load(bias_ptr + column, mask=inside, other=0.0)
    tl.store(at, value, mask=inside)
