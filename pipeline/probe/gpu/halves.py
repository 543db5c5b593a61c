"""Parts of the split-precision kernels: splitting a value and storing it as an operand (``product.py``)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split_halves(value):
    """float32 -> (hi, lo) float16 with value = hi + lo to 22 bits, for |value| <= 2^15."""
    hi = value.to(tl.float16)
    lo = (value - hi.to(tl.float32)).to(tl.float16)
    return hi, lo


@triton.jit
def store_operand(row_ptr, column, value, inside, width, three):
    """Store ``value`` at ``column`` of the operand rows [hi | lo | hi]; the first block only if ``three``."""
    hi, lo = split_halves(value)
    if three:
        tl.store(row_ptr + column, hi, mask=inside)
    tl.store(row_ptr + width + column, lo, mask=inside)
    tl.store(row_ptr + 2 * width + column, hi, mask=inside)


@triton.jit
def variant_bit(bits, variant):
    """Whether bit ``variant`` of ``bits`` is set."""
    return ((bits >> variant) & 1) != 0
