"""All scores of a prediction, from one pass over the logits of all variants.

One program reads the V rows of logits that belong to one prediction, block by block, and keeps running sums: per
variant the maximum and the sum of exponentials, and against the baseline two sums that give the
Kullback-Leibler divergence without cancellation. With y = (l_0 - l_v) - c for any constant c per row,

    KL(p_0 || p_v) = E_0[y] + log E_0[exp(-y)] = E_0[h] + (log1p(z) - z)
    h = exp(-y) - 1 + y >= 0,  z = E_0[h] - E_0[y]

where E_0 is the mean under the baseline's softmax. An INT8 divergence is 1e-5 nats where the entropies are several:
their difference would lose it, the sum of the non-negative h does not. c is the target's own l_0 - l_v, which removes a
shift common to all logits. Where z is large the first form, from the two log-sums, is as good and cannot overflow.

Cost: 4 bytes per logit, read once, 2 V - 1 exponentials; bound by memory.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _exp_residue(y):
    """exp(-y) - 1 + y without cancellation near 0; y is cut off at -30, far inside the range of the other form."""
    y = tl.maximum(y, -30.0)
    series = 1.0 / 120.0 - y * (1.0 / 720.0)
    series = 1.0 / 24.0 - y * series
    series = 1.0 / 6.0 - y * series
    series = y * y * (0.5 - y * series)
    return tl.where(tl.abs(y) < 0.125, series, tl.exp(-y) - 1.0 + y)


@triton.jit
def _advance(logit, top, total):
    """(maximum, sum of exponentials) after one more block; the old sum's factor and the block's exponentials."""
    new_top = tl.maximum(top, tl.max(logit, axis=1, keep_dims=True))
    shrink = tl.exp(top - new_top)
    p = tl.exp(logit - new_top)
    return new_top, total * shrink + tl.sum(p, axis=1, keep_dims=True), shrink, p


@triton.jit(do_not_specialize=["predictions", "offset", "total"])  # one binary whatever the chunk
def loss_kernel(
    logits_ptr,  # float32 (V, P, K); raw products where SCALED
    scale_ptr,  # float32 (V, K): what a raw product is multiplied by
    target_ptr,  # int64 (P)
    # float32 (6, V, total), from column `offset` on: log-sum, target's logit, E_0[y], E_0[h], c, and 1 where the
    # baseline's most likely token is this variant's
    sums_ptr,
    vocabulary,  # K
    predictions,  # P
    offset,
    total,
    V: tl.constexpr,
    OTHERS: tl.constexpr,  # V - 1 rounded up to a power of two
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    prediction = tl.program_id(0).to(tl.int64)
    plane = tl.cast(predictions, tl.int64) * vocabulary
    target = tl.load(target_ptr + prediction)
    v = 1 + tl.arange(0, OTHERS)[:, None]
    present = v < V
    v = tl.minimum(v, V - 1).to(tl.int64)
    row_0 = logits_ptr + prediction * vocabulary
    rows = row_0 + v * plane
    scales = scale_ptr + v * vocabulary
    zero = tl.zeros((1, 1), dtype=tl.int32)
    at_target_0 = tl.load(row_0 + target + zero)
    at_target = tl.load(rows + target)
    if SCALED:
        at_target_0 *= tl.load(scale_ptr + target + zero)
        at_target *= tl.load(scales + target)
    c = at_target_0 - at_target
    at = tl.arange(0, BLOCK)[None, :]
    top_0 = tl.full((1, 1), -3e38, dtype=tl.float32)
    sum_p_0 = tl.zeros((1, 1), dtype=tl.float32)
    best_0 = zero
    top = tl.full((OTHERS, 1), -3e38, dtype=tl.float32)
    sum_p = tl.zeros((OTHERS, 1), dtype=tl.float32)
    sum_y = tl.zeros((OTHERS, 1), dtype=tl.float32)
    sum_h = tl.zeros((OTHERS, 1), dtype=tl.float32)
    for start in range(0, vocabulary, BLOCK):
        column = start + at
        inside = column < vocabulary
        logit_0 = tl.load(row_0 + column, mask=inside, other=-3e38)
        if SCALED:
            logit_0 *= tl.load(scale_ptr + column, mask=inside, other=1.0)
        first = tl.min(
            tl.where(logit_0 == tl.max(logit_0, axis=1, keep_dims=True), column, 2147483647),
            axis=1,
            keep_dims=True,
        )
        old_top_0 = top_0
        top_0, sum_p_0, shrink, p_0 = _advance(logit_0, top_0, sum_p_0)
        best_0 = tl.where(top_0 > old_top_0, first, best_0)
        if V > 1:
            logit = tl.load(rows + column, mask=inside & present, other=-3e38)
            if SCALED:
                logit *= tl.load(scales + column, mask=inside & present, other=1.0)
            top, sum_p, _, _ = _advance(logit, top, sum_p)
            y = tl.where(inside & present, logit_0 - logit - c, 0.0)
            sum_y = sum_y * shrink + tl.sum(p_0 * y, axis=1, keep_dims=True)
            sum_h = sum_h * shrink + tl.sum(p_0 * _exp_residue(y), axis=1, keep_dims=True)
    out_0 = sums_ptr + offset + prediction + zero
    height = V * total
    tl.store(out_0, top_0 + tl.log(sum_p_0))
    tl.store(out_0 + height, at_target_0)
    for i in tl.static_range(2, 5):
        tl.store(out_0 + i * height, tl.zeros((1, 1), dtype=tl.float32))
    tl.store(out_0 + 5 * height, zero + 1.0)
    if V > 1:
        out = sums_ptr + v * total + offset + prediction
        tl.store(out, top + tl.log(sum_p), mask=present)
        tl.store(out + height, at_target, mask=present)
        tl.store(out + 2 * height, sum_y / sum_p_0, mask=present)
        tl.store(out + 3 * height, sum_h / sum_p_0, mask=present)
        tl.store(out + 4 * height, c, mask=present)
        at_best = tl.load(rows + best_0)
        if SCALED:
            at_best *= tl.load(scales + best_0)
        tl.store(out + 5 * height, tl.where(at_best == top, 1.0, 0.0), mask=present)


@triton.jit(do_not_specialize=["predictions", "offset", "total"])  # one binary whatever the chunk
def nll_kernel(
    logits_ptr,  # float32 (V, P, K); raw products where SCALED
    scale_ptr,  # float32 (V, K): what a raw product is multiplied by
    target_ptr,  # int64 (P)
    out_ptr,  # float64 (V, total), from column `offset` on: the nll
    vocabulary,  # K
    predictions,  # P
    offset,
    total,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Each lane keeps its own maximum and sum: lanes are joined once per row, so reading never waits for them.
    prediction = tl.program_id(0)
    v = tl.program_id(1).to(tl.int64)
    row = logits_ptr + (v * predictions + prediction) * vocabulary
    scales = scale_ptr + v * vocabulary
    at = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), -3e38, dtype=tl.float32)
    total_p = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, vocabulary, BLOCK):
        inside = start + at < vocabulary
        logit = tl.load(row + start + at, mask=inside, other=-3e38)
        if SCALED:
            logit *= tl.load(scales + start + at, mask=inside, other=1.0)
        new_top = tl.maximum(top, logit)
        total_p = total_p * tl.exp(top - new_top) + tl.exp(logit - new_top)
        top = new_top
    largest = tl.max(top, axis=0)
    log_sum = largest + tl.log(tl.sum(total_p * tl.exp(top - largest), axis=0))
    target = tl.load(target_ptr + prediction)
    at_target = tl.load(row + target)
    if SCALED:
        at_target *= tl.load(scales + target)
    nll = log_sum.to(tl.float64) - at_target.to(tl.float64)
    tl.store(out_ptr + v * total + offset + prediction, nll)
