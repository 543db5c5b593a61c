"""Round-to-nearest weight quantization: ``choose_params``, ``quantize``, ``dequantize``.

A weight is a float32 matrix of shape (out_features, in_features). Along in_features it is cut into groups of
``group_size`` consecutive weights (the last may be shorter; None, or a size beyond in_features, is one group
per row); every group has its own scale, and for an asymmetric scheme its own integer zero point.

* asymmetric: lo = min(0, min w), hi = max(0, max w), scale = (hi - lo) / (2^b - 1),
  zero = round(-lo / scale), q = clamp(round(w / scale) + zero, 0, 2^b - 1), w' = (q - zero) * scale
* symmetric: scale = max|w| / (2^(b-1) - 1), q = clamp(round(w / scale), -(2^(b-1) - 1), 2^(b-1) - 1),
  w' = q * scale

All arithmetic is float32, rounding is half to even, and zero is always on the grid. The scale has NO floor: a
floor of 1/127, which some tools have, makes INT8 of small weights worse than INT4. A group whose scale is zero
(all zeros, or so small that the scale underflows) is represented by exact zeros.

No calibration data and no error repair are involved: this measures the fit of the weights themselves to the
grid. The asymmetric grid is the one of torchao's ``choose_qparams_affine``/``quantize_affine`` and of
compressed-tensors; the tests hold both schemes bit-equal to torchao.

The shape suffixes below: O = out_features, G = groups per row, S = group size (the last group zero-padded;
a padded zero changes neither lo, hi nor max|w|).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.spec import Scheme


@dataclass(frozen=True)
class Grid:
    """The grid of one weight under one scheme."""

    scheme: Scheme
    in_features: int
    """Columns of the weight; the padding of the last group is beyond them."""
    scale: Tensor
    """float32 (out_features, groups); zero where a group is represented by exact zeros."""
    zero_point: Tensor
    """float32 (out_features, groups) holding integers; all zero for a symmetric scheme."""

    @property
    def group_size(self) -> int:
        """Weights per group, never more than in_features."""
        size = self.scheme.group_size
        return self.in_features if size is None else min(size, self.in_features)


def choose_params(weight: Tensor, scheme: Scheme) -> Grid:
    """The grid of ``weight`` (float32, (out_features, in_features)) under ``scheme``."""
    if weight.dim() != 2 or weight.dtype != torch.float32:
        raise ValueError(
            f"a weight of {weight.dtype} {tuple(weight.shape)}: wanted a float32 matrix (out, in)"
        )
    in_features = weight.shape[1]
    size = in_features if scheme.group_size is None else min(scheme.group_size, in_features)
    weight_OGS = _grouped(weight, size)
    lo_OG, hi_OG = weight_OGS.aminmax(dim=-1)
    if scheme.symmetric:
        scale_OG = _divide(torch.maximum(-lo_OG, hi_OG), 2 ** (scheme.bits - 1) - 1)
        return Grid(scheme, in_features, scale_OG, torch.zeros_like(scale_OG))
    highest = 2**scheme.bits - 1
    lo_OG, hi_OG = lo_OG.clamp(max=0), hi_OG.clamp(min=0)
    scale_OG = _divide(hi_OG - lo_OG, highest)
    zero_OG = torch.round(-lo_OG / _divisor(scale_OG)).clamp_(0, highest)
    return Grid(scheme, in_features, scale_OG, zero_OG)


def quantize(weight: Tensor, grid: Grid) -> Tensor:
    """Grid indices q of ``weight``: int16 (out_features, in_features), within the scheme's range."""
    q_OGS = torch.round(normalised(weight, grid)).add_(grid.zero_point.unsqueeze(-1))
    low, high = _range(grid.scheme)
    return _ungrouped(q_OGS.clamp_(low, high), grid.in_features).to(torch.int16)


def dequantize(q: Tensor, grid: Grid) -> Tensor:
    """The weights that the indices ``q`` stand for: float32 (out_features, in_features)."""
    steps_OGS = _grouped(q.to(torch.float32), grid.group_size) - grid.zero_point.unsqueeze(-1)
    return _ungrouped(steps_OGS.mul_(grid.scale.unsqueeze(-1)), grid.in_features)


def round_trip(weight: Tensor, grid: Grid) -> Tensor:
    """``dequantize(quantize(weight, grid), grid)``, bit for bit, in one float32 buffer.

    The indices stay float32, which holds them exactly, so no integer copy of the weight is made.
    """
    zero_OG1 = grid.zero_point.unsqueeze(-1)
    low, high = _range(grid.scheme)
    steps_OGS = torch.round(normalised(weight, grid)).add_(zero_OG1).clamp_(low, high).sub_(zero_OG1)
    return _ungrouped(steps_OGS.mul_(grid.scale.unsqueeze(-1)), grid.in_features)


def normalised(weight: Tensor, grid: Grid) -> Tensor:
    """``weight / scale`` in groups: float32 (out_features, groups, group_size), padding and empty groups 0."""
    return _grouped(weight, grid.group_size) / _divisor(grid.scale).unsqueeze(-1)


def _divide(range_OG: Tensor, steps: int) -> Tensor:
    """A division by a number, which CUDA would replace by a product with its rounded reciprocal, as a true one."""
    return range_OG / torch.full_like(range_OG, steps)


def _divisor(scale_OG: Tensor) -> Tensor:
    """The scale where there is one; infinity where it is zero, so that a quotient there is an exact zero."""
    return torch.where(scale_OG > 0, scale_OG, torch.inf)


def _range(scheme: Scheme) -> tuple[int, int]:
    if scheme.symmetric:
        return -(2 ** (scheme.bits - 1) - 1), 2 ** (scheme.bits - 1) - 1
    return 0, 2**scheme.bits - 1


def _grouped(matrix: Tensor, size: int) -> Tensor:
    """(O, in_features) -> (O, G, S), the last group padded with zeros."""
    short = -matrix.shape[1] % size
    padded = functional.pad(matrix, (0, short)) if short else matrix
    return padded.reshape(matrix.shape[0], -1, size)


def _ungrouped(groups_OGS: Tensor, in_features: int) -> Tensor:
    """(O, G, S) -> (O, in_features), without the padding."""
    return groups_OGS.flatten(1)[:, :in_features]
