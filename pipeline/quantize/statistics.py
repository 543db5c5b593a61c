"""Statistics of a weight, and of its fit to a grid.

Sums run in float64 over float32 elements, so the numbers do not depend on how a tensor is tiled beyond the
last bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BOUNDARY_WIDTH = 0.1
"""A weight closer than this to a rounding boundary, in grid steps, counts as being at the boundary."""


@dataclass(frozen=True)
class Moments:
    """Moments of one tensor's elements."""

    n: int
    mean: float
    std: float
    """Population standard deviation (divided by n)."""
    absmax: float
    kurtosis: float
    """Excess kurtosis E[(x - mean)^4] / std^4 - 3: 0 for a normal law, -1.2 for a uniform one; NaN where
    std is 0 (it is not defined there, and 0 would claim a normal law)."""


@dataclass(frozen=True)
class GridFit:
    """How one tensor fits one grid."""

    relative_error: float
    """||w' - w|| / ||w|| (Frobenius); 0 for a tensor of zeros."""
    boundary_fraction: float | None
    """Share of weights whose w / scale lies within ``BOUNDARY_WIDTH`` of a rounding boundary (a half-integer); None
    if the grid has no even steps. Weights spread evenly over the grid's cells give 0.2; more means that the weights
    are misaligned with the grid and a small change flips the rounding. Groups of zeros count as grid points."""


def moments(weight: Tensor) -> Moments:
    """Moments of all elements of ``weight`` (any shape, float32), two passes in float64."""
    values = weight.double().flatten()
    mean = values.mean()
    squares = (values - mean).square_()
    variance = squares.mean()
    fourth = squares.square_().mean()
    kurtosis = fourth / variance.square() - 3.0
    return Moments(
        n=values.numel(),
        mean=mean.item(),
        std=variance.sqrt().item(),
        absmax=weight.abs().max().item(),
        kurtosis=kurtosis.item(),
    )


def grid_fit(weight: Tensor, quantized: Tensor, steps: Tensor | None) -> GridFit:
    """Fit of ``weight`` to a grid, given ``quantized`` = its round trip (both float32 (out, in)).

    ``steps``: the weight in grid steps (``Quantizer.grid_steps``). The relative error is NaN or inf where the quantized
    weight is not finite, or is not zero where the weight is.
    """
    norm = weight.double().square_().sum().sqrt()
    error = (quantized - weight).double().square_().sum().sqrt()
    boundary_fraction = None
    if steps is not None:
        # Padding sits at 0, half a step from any boundary: it is never counted here, and the divisor is the number of
        # real weights.
        distance = (steps - steps.floor()).sub_(0.5).abs_()
        boundary_fraction = (distance < BOUNDARY_WIDTH).sum().item() / weight.numel()
    relative_error = 0.0 if error == 0 else (error / norm).item()
    return GridFit(relative_error, boundary_fraction)
