"""Relative error of a layer's output on the calibration tokens, from the second moments of its inputs.

Legend of shapes: O = out_features, I = in_features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def output_error(weight: Tensor, values: Tensor, second_moments: Tensor) -> float:
    """||(W' - W) X|| / ||W X||, the relative error of the output.

    ``weight`` and ``values`` (W and W'): float32 (O, I). ``second_moments``: float64 (I, I), the mean of x x^T.
    0 if the weight is unchanged; infinite if a zero output becomes non-zero.
    """
    stored = weight.double()
    moved, size = (_output_square(matrix, second_moments) for matrix in (values.double() - stored, stored))
    ratio: Tensor = moved.where(moved == 0, moved / size).sqrt()
    return float(ratio)


def _output_square(matrix: Tensor, second_moments: Tensor) -> Tensor:
    """The mean of ||M x||^2 over the tokens, a scalar."""
    return (matrix @ second_moments).mul_(matrix).sum().clamp_(min=0.0)
