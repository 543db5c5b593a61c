"""Parts of the formats with fixed blocks: splitting a weight into blocks, and the values of the 4-bit float E2M1.

Legend of shapes: O = out_features, I = in_features, B = blocks per row, S = block size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

E2M1_LARGEST = 6.0
"""Largest value of E2M1, whose values are 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives."""


def require_float32_matrix(weight: Tensor) -> None:
    """Raise ValueError for anything but a float32 matrix."""
    if weight.dim() != 2 or str(weight.dtype) != "torch.float32":
        raise ValueError(
            f"a weight of {weight.dtype} {tuple(weight.shape)}: wanted a float32 matrix (out, in)"
        )


def divide(values: Tensor, number: float) -> Tensor:
    """Divide by a number exactly; CUDA would multiply by its rounded reciprocal."""
    return values / values.new_full(values.shape, number)


def row_blocks(weight: Tensor, size: int) -> Tensor:
    """(O, I) -> (O, B, S): blocks of consecutive weights of a row, the last one padded with zeros."""
    rows, columns = weight.shape
    if short := -columns % size:
        padded = weight.new_zeros(rows, columns + short)
        padded[:, :columns] = weight
        weight = padded
    return weight.reshape(rows, -1, size)


def round_to_e2m1(values: Tensor) -> Tensor:
    """Round to the nearest value of E2M1, ties to the even mantissa, saturating; any shape."""
    size = values.abs()
    rounded = (size * 2).round() / 2
    rounded = rounded.where(size < 2, size.round())
    rounded = rounded.where(size < 4, (size / 2).round() * 2).clamp(max=E2M1_LARGEST)
    return rounded.copysign(values)
