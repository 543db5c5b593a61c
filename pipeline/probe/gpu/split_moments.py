"""Sums of x x^T at tensor-core speed, to float32's accuracy.

As in ``product``, a float32 input is two float16 halves, x = hi + lo, here after each column has been brought under
2^15 by a power of two. Then x x^T = hi hi^T + hi lo^T + (hi lo^T)^T, but for lo lo^T, which is below float32's own
rounding. Tensor cores truncate when they accumulate, so that a sum loses about 2^-24 of itself per 16 rows: parts of
``ROWS`` rows are summed by them, and the parts in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.probe.gpu.product import multiply_batches

ROWS = 1024
"""Rows of a part: it loses up to 64 x 2^-24 of itself, 4e-6, and that evenly."""
PARTS_BYTES = 2**29
"""Bound on the sums of the parts that are made at a time."""


def sum_of_squares(rows_RI: Tensor) -> Tensor:
    """float64 (I, I): the sum of x x^T over the rows of float32 (R, I)."""
    features = rows_RI.shape[1]
    total = torch.zeros(features, features, dtype=torch.float64, device=rows_RI.device)
    at_once = ROWS * max(1, PARTS_BYTES // (4 * features * features))
    for some_RI in rows_RI.split(at_once):
        power_I = _power(some_RI)
        high, low = _halves(some_RI * power_I)
        unit_I = power_I.double().reciprocal_()
        total += _summed(high, low).mul_(unit_I).mul_(unit_I[:, None])
    return total


def _summed(high: Tensor, low: Tensor) -> Tensor:
    """float64 (I, I) from float16 (P, R, I)."""
    turned = high.mT
    square = multiply_batches(turned, high).sum(dim=0, dtype=torch.float64)
    mixed = multiply_batches(turned, low).sum(dim=0, dtype=torch.float64)
    return square.add_(mixed).add_(mixed.T)


def _power(rows_RI: Tensor) -> Tensor:
    """float32 (I): the power of two that brings a column's largest magnitude into [2^14, 2^15)."""
    largest_I = rows_RI.abs().amax(dim=0)
    exponent_I = torch.frexp(largest_I).exponent.clamp_(-110, 127)
    return torch.ldexp(torch.ones_like(largest_I), 15 - exponent_I)


def _halves(scaled_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Two float16 (P, ROWS, I), the last part filled up with zeros."""
    short = -len(scaled_RI) % ROWS
    padded = torch.nn.functional.pad(scaled_RI, (0, 0, 0, short)).view(-1, ROWS, scaled_RI.shape[1])
    high = padded.half()
    return high, (padded - high.float()).half()
