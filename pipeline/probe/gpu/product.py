"""Split-precision matrix products: float32 accuracy at tensor-core speed.

The idea. A float32 activation is x = hi + lo, two float16 numbers of 11 bits each, so 22 bits of it survive. A
weight that was stored as float16, or that lies on an integer grid, IS a float16 number, times a scale that its
row shares. Then x @ W.T = hi @ W.T + lo @ W.T needs two float16 products with float32 accumulation, exact but for
the accumulation, where plain float32 needs one product at a fourteenth of the speed. A weight that no float16
holds (a scale per group, float32 storage) is split too, W = high + low, for a third product hi @ low.T; the fourth,
lo @ low.T, is below float32's own rounding.

One call. The blocks lie side by side in memory, the *operands*

    activations (M, 3 K) = [hi | lo | hi]        weights (N, 3 K) = [low | high | high]

so that the whole sum is one float16 product of inner size 3 K, or 2 K from the second block on where the weight is
exact. Small terms come first: tensor cores truncate when they accumulate, in proportion to what is in
the accumulator, so lo before hi halves that error.

Range. float16 ends at 65504 and loses bits under 2^-14, so both operands are multiplied by powers of two (exact)
that bring the largest value just under 2^15: whatever lies within 2^-18 of it keeps its 22 bits, the rest an absolute
error of 2^-40 of the largest. Weights: per row, from their values. Activations: per row where the values are at hand
(``rows.split_kernel``), per tensor where a bound follows from the weights (``neox.py``). Nothing can overflow.

Cost of M x K times K x N: 4 M N K float16 flops, 6 with the third product; an operand is 6 bytes per value.
Why the library's product and not a kernel with everything fused: measured on an H100 at the shapes of Pythia-160m, ours
reached 255 to 285 useful TFLOP/s, and 160 to 215 with residual or GELU fused in; the library's reaches 290 to 345, and
the element-wise kernels beside it cost less than the difference. A scale per K-group inside the kernel: 175, the
third product 205 to 220.
"""

from __future__ import annotations

import torch
from torch import Tensor


def multiply(operand: Tensor, weight: Tensor, three: bool, out: Tensor) -> Tensor:
    """Write ``operand`` (M, 3 K) times ``weight`` (N, 3 K) transposed to ``out``, float32 (M, N).

    Without ``three`` the first block of both is not read.
    """
    first = 0 if three else operand.shape[1] // 3
    left, right = operand[:, first:], weight[:, first:].T
    if operand.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left.float(), right.float(), out=out)  # for tests; torch has no mixed product on the CPU


def multiply_batches(left: Tensor, right: Tensor) -> Tensor:
    """float32 (B, M, N): the products of float16 (B, M, K) and (B, K, N)."""
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def multiply_halves(left: Tensor, right: Tensor) -> Tensor:
    """float32 (M, N): the product of float16 (M, K) and (K, N)."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left.float(), right.float())
