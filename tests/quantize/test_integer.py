"""The grids against torchao's primitives, and against the definition worked by hand."""

from __future__ import annotations

import pytest
import torch
from torchao.quantization import quant_primitives as torchao

from pipeline.quantize import round_trip
from pipeline.quantize.integer import IntegerGrid

GRIDS = [
    IntegerGrid(bits, group, symmetric)
    for bits in (2, 3, 4, 8)
    for group in (32, 128, None)
    for symmetric in (False, True)
]


def edge_rows(n: int) -> dict[str, torch.Tensor]:
    noise = torch.randn(n, generator=torch.Generator().manual_seed(7)) * 0.02
    outlier = noise.clone()
    outlier[n // 3] = 40.0
    return {
        "random": noise,
        "positive": noise.abs() + 1e-3,
        "negative": -noise.abs() - 1e-3,
        "constant": torch.full((n,), 0.37),
        "negative constant": torch.full((n,), -0.37),
        "zero": torch.zeros(n),
        "tiny scale": noise * 1e-6,
        "outlier": outlier,
        "one weight": torch.nn.functional.one_hot(torch.tensor(n - 1), n).float(),
        "fp16": noise.half().float(),
    }


def torchao_round_trip(weight: torch.Tensor, grid: IntegerGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """(q, w') of torchao for a weight whose width is a multiple of the group size."""
    size = min(grid.group_size or weight.shape[1], weight.shape[1])
    high = 2 ** (grid.bits - 1) - 1 if grid.symmetric else 2**grid.bits - 1
    low = -high if grid.symmetric else 0
    target = torch.int16
    mapping = (
        torchao.MappingType.SYMMETRIC_NO_CLIPPING_ERR if grid.symmetric else torchao.MappingType.ASYMMETRIC
    )
    scale, zero = torchao.choose_qparams_affine(
        weight, mapping, (1, size), target, low, high, eps=1e-44, scale_dtype=torch.float32,
        zero_point_dtype=torch.int32,
    )  # fmt: skip
    q = torchao.quantize_affine(weight, (1, size), scale, zero, target, low, high)
    back = torchao.dequantize_affine(q, (1, size), scale, zero, target, low, high, output_dtype=torch.float32)
    return q, back


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grids_are_bit_equal_to_torchao_on_random_and_edge_groups(grid: IntegerGrid) -> None:
    weight = torch.stack(list(edge_rows(256).values()))
    nonzero = weight.abs().amax(dim=1) > 0  # torchao divides by its eps there; ours is checked below
    encoded = grid.encode(weight)
    q, back = torchao_round_trip(weight[nonzero], grid)
    assert torch.equal(encoded.codes[nonzero].to(torch.int16), q)
    assert torch.equal(encoded.codes, encoded.codes.round())
    assert torch.equal(grid.decode(encoded)[nonzero], back)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("width", [2, 31, 130, 300])
def test_a_short_last_group_is_a_group_of_its_own(grid: IntegerGrid, width: int) -> None:
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    size = min(grid.group_size or width, width)
    pieces = [torchao_round_trip(piece.contiguous(), grid)[1] for piece in weight.split(size, dim=1)]
    assert torch.equal(round_trip(grid, weight), torch.cat(pieces, dim=1))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_groups_without_a_representable_scale_become_exact_zeros(grid: IntegerGrid) -> None:
    weight = torch.tensor([[0.0] * 8, [1e-45] * 8])  # the second row is the smallest denormal
    back = round_trip(grid, weight)
    assert torch.equal(back[0], torch.zeros(8))
    assert torch.isfinite(back).all()


def test_int8_stays_fine_however_small_the_weights_are() -> None:
    """No scale floor: the relative error does not depend on the unit in which weights are written."""
    weight = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    grid = IntegerGrid(8, None, True)
    for unit in (1.0, 2.0**-20, 2.0**-60):
        small = weight * unit
        error = (round_trip(grid, small) - small).norm() / small.norm()
        assert error < 0.012


def test_halves_round_to_even() -> None:
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 7.0]])  # scale 1: the grid is the integers -7..7
    q = IntegerGrid(4, None, True).encode(weight).codes
    assert q.tolist() == [[0, 2, 2, 0, -2, 7]]


def test_a_half_precision_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 matrix"):
        IntegerGrid(4, None, True).encode(torch.zeros(2, 2, dtype=torch.float16))
