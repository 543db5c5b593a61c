"""Sums of x x^T at tensor-core speed, to float32's accuracy.

As in ``product``, a float32 input is two float16 halves, x = hi + lo, here after each column has been brought under
2^15 by a power of two. Then x x^T = hi hi^T + hi lo^T + (hi lo^T)^T, but for lo lo^T, which is below float32's own
rounding. Tensor cores truncate when they accumulate, so that a sum loses 2^-24 or a little more of itself per 16 rows.
So hi hi^T is summed by them over parts of ``ROWS`` rows at most, and the parts in float32; hi lo^T is 2^-11 of it, and
may lose that much more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.probe.gpu.product import multiply_batches, multiply_halves

ROWS = 1024
"""Rows of a part: it loses 64 x 2^-24 of itself, 4e-6 (measured on an H200: 6e-6), and that evenly."""
PARTS_BYTES = 2**29
"""Bound on the sums of the parts that are made at a time."""


def sum_of_squares(rows_RI: Tensor) -> Tensor:
    """float64 (I, I): the sum of x x^T over the rows of float32 (R, I)."""
    features = rows_RI.shape[1]
    total = torch.zeros(features, features, dtype=torch.float64, device=rows_RI.device)
    at_once = ROWS * max(1, PARTS_BYTES // (4 * features * features))
    for some_RI in rows_RI.split(at_once):
        power_I = _power(some_RI)
        high_RI, low_RI = _halves(some_RI * power_I)
        mixed = multiply_halves(high_RI.T, low_RI)
        high = high_RI.view(-1, ROWS, features)
        square = multiply_batches(high.mT, high).sum(dim=0)
        unit_I = power_I.double().reciprocal_()
        total += square.double().add_(mixed).add_(mixed.T).mul_(unit_I).mul_(unit_I[:, None])
    return total


def _power(rows_RI: Tensor) -> Tensor:
    """float32 (I): the power of two that brings a column's largest magnitude into [2^14, 2^15)."""
    largest_I = torch.linalg.vector_norm(rows_RI, torch.inf, dim=0)
    exponent_I = torch.frexp(largest_I).exponent.clamp_(-110, 127)
    return torch.ldexp(torch.ones_like(largest_I), 15 - exponent_I)


def _halves(scaled_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Two float16 (R, I), with zeros up to a whole number of parts."""
    short = -len(scaled_RI) % ROWS
    padded_RI = torch.nn.functional.pad(scaled_RI, (0, 0, 0, short)) if short else scaled_RI
    high_RI = padded_RI.half()
    # The difference is taken in float32 and rounded as it is written.
    return high_RI, torch.sub(padded_RI, high_RI, out=torch.empty_like(high_RI))
