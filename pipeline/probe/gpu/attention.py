"""Causal attention in split precision, from the fused query-key-value product to the next product's operand.

The idea. One program owns a block of queries of one head and walks the keys before them with the running
maximum and sum of the online softmax, so the T x T scores never exist in memory. Queries, keys, values and the
softmax weights are split into float16 halves in registers; of the four products of halves the three that matter
are summed in float32 (the fourth is below float32's rounding): 22-bit operands at a third of the tensor cores'
float16 rate, twice as fast as float32 attention here (measured: 1.3 against 2.8 ms at D = 64).

Scale, bias and rotary embedding are applied while queries and keys are loaded; the result leaves as an operand
(``product.py``), with the power of two that bounds the values, because an average of values cannot exceed them.

Cost per head and sequence: 6 T^2 D flops of float16 products at causal half; reads 12 T D bytes once
(again from L2 for each block of queries), writes 4 or 6 T D bytes.

Legend: V = variants, S = sequences per variant, T = tokens, H = heads, D = head size.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.probe.gpu.halves import split_halves, store_operand, variant_bit


@triton.jit
def _column(scale_ptr, bias_ptr, column, inside, BIAS: tl.constexpr):
    scale = tl.load(scale_ptr + column, mask=inside, other=0.0)
    bias = tl.zeros_like(scale)
    if BIAS:
        bias = tl.load(bias_ptr + column, mask=inside, other=0.0)
    return scale[None, :], bias[None, :]


@triton.jit
def _rotated(
    raw_ptr, scale_ptr, bias_ptr, cos_ptr, sin_ptr, rows, inside, d,
    D: tl.constexpr, WIDTH: tl.constexpr, ROTARY: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """(rows, D) of a head's queries or keys, the first ROTARY of D turned by their position's angles."""
    HALF: tl.constexpr = ROTARY // 2
    at = raw_ptr + rows[:, None] * WIDTH
    scale, bias = _column(scale_ptr, bias_ptr, d, d < D, BIAS)
    x = tl.load(at + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0) * scale + bias
    if ROTARY > 0:
        partner = tl.where(d < HALF, d + HALF, d - HALF)
        turned = inside[:, None] & (d < ROTARY)[None, :]
        scale, bias = _column(scale_ptr, bias_ptr, partner, d < ROTARY, BIAS)
        other = tl.load(at + partner[None, :], mask=turned, other=0.0) * scale + bias
        cos = tl.load(cos_ptr + rows[:, None] * ROTARY + d[None, :], mask=turned, other=1.0)
        sin = tl.load(sin_ptr + rows[:, None] * ROTARY + d[None, :], mask=turned, other=0.0)
        x = x * cos + tl.where(d < HALF, -other, other) * sin
    return x


@triton.jit(do_not_specialize=["T", "sequences"])  # one binary whatever the chunk
def attention_kernel(
    raw_ptr,  # raw product (V * S * T, H, 3, D), see rows.py
    scale_ptr,  # float32 (V, H, 3, D)
    bias_ptr,  # float32 (H, 3, D)
    cos_ptr,  # float32 (T, ROTARY)
    sin_ptr,
    power_ptr,  # float32 (V): power of two that brings queries, keys and values under 2^15
    out_ptr,  # operand (V * S * T, 3 H D)
    T,
    sequences,  # S
    three,  # bit v: variant v's next weights need the operand's first block
    logit_scale,  # D^-0.5 * log2(e)
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROTARY: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    WIDTH: tl.constexpr = 3 * H * D
    # Late blocks of queries see most keys: they start first, so that the last to finish are short.
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    sequence = (tl.program_id(0) // H).to(tl.int64)
    head = tl.program_id(0) % H
    variant = sequence // sequences
    power = tl.load(power_ptr + variant)
    unit = logit_scale / (power * power)
    raw = raw_ptr + sequence * T * WIDTH + head * (3 * D)
    scale_ptr += variant * WIDTH + head * (3 * D)
    bias_ptr += head * (3 * D)
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    v_scale, v_bias = _column(scale_ptr + 2 * D, bias_ptr + 2 * D, d, d < D, BIAS)

    q = _rotated(raw, scale_ptr, bias_ptr, cos_ptr, sin_ptr, m, m < T, d, D, WIDTH, ROTARY, BIAS)
    q_hi, q_lo = split_halves(q * power)
    top = tl.full((BLOCK_M,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for start in range(0, tl.minimum((block + 1) * BLOCK_M, T), BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        key = _rotated(
            raw + D, scale_ptr + D, bias_ptr + D, cos_ptr, sin_ptr, n, n < T, d, D, WIDTH, ROTARY, BIAS
        )
        k_hi, k_lo = split_halves(key * power)
        score = tl.dot(q_hi, tl.trans(k_lo))
        score = tl.dot(q_lo, tl.trans(k_hi), score)
        score = tl.dot(q_hi, tl.trans(k_hi), score) * unit
        score = tl.where(m[:, None] >= n[None, :], score, -float("inf"))
        new_top = tl.maximum(top, tl.max(score, axis=1))
        shrink = tl.exp2(top - new_top)
        # 2^10 keeps the low halves of small weights above float16's underflow; it cancels in the quotient.
        weight = tl.exp2(score - new_top[:, None] + 10.0)
        total = total * shrink + tl.sum(weight, axis=1)
        w_hi, w_lo = split_halves(weight)
        value = tl.load(
            raw + 2 * D + n[:, None] * WIDTH + d[None, :], mask=(n < T)[:, None] & (d < D)[None, :], other=0.0
        )
        v_hi, v_lo = split_halves((value * v_scale + v_bias) * power)
        acc = acc * shrink[:, None]
        acc = tl.dot(w_hi, v_lo, acc)
        acc = tl.dot(w_lo, v_hi, acc)
        acc = tl.dot(w_hi, v_hi, acc)
        top = new_top

    out = out_ptr + (sequence * T + m)[:, None] * (3 * H * D)
    stored = (m < T)[:, None] & (d < D)[None, :]
    store_operand(
        out, head * D + d[None, :], acc / total[:, None], stored, H * D, variant_bit(three, variant)
    )
