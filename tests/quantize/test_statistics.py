"""Weight statistics against SciPy and against distributions whose values are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.quantize import round_trip
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.statistics import GridFit, grid_fit, moments

INT4 = IntegerGrid(4, 128, False)


def fit_of(weight: torch.Tensor, grid: IntegerGrid) -> GridFit:
    encoded = grid.encode(weight)
    return grid_fit(weight, grid.decode(encoded), grid.grid_steps(weight, encoded))


def test_moments_agree_with_scipy() -> None:
    weight = torch.from_numpy(np.random.default_rng(3).standard_t(5, (64, 257)).astype(np.float32))
    found = moments(weight)
    values = weight.double().numpy().ravel()
    assert found.n == values.size
    assert found.mean == pytest.approx(values.mean(), rel=1e-10)
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    assert found.absmax == np.abs(values).max()
    assert found.kurtosis == pytest.approx(stats.kurtosis(values), rel=1e-10)


def test_kurtosis_of_a_constant_is_undefined() -> None:
    assert math.isnan(moments(torch.full((4, 4), 0.25)).kurtosis)


def test_relative_error_is_the_quotient_of_norms() -> None:
    weight = torch.randn(32, 300, generator=torch.Generator().manual_seed(1))
    quantized = round_trip(INT4, weight)
    exact = np.linalg.norm((quantized - weight).double()) / np.linalg.norm(weight.double())
    assert fit_of(weight, INT4).relative_error == pytest.approx(exact, rel=1e-12)


def test_normal_weights_have_the_error_computed_for_this_grid() -> None:
    """0.1007 for N(0, 0.02) under asymmetric INT4, group 128, with zero on the grid."""
    weight = torch.randn(512, 1024, generator=torch.Generator().manual_seed(2)) * 0.02
    assert fit_of(weight, INT4).relative_error == pytest.approx(0.1007, abs=5e-4)


def test_boundary_fraction_is_a_fifth_where_weights_ignore_the_grid() -> None:
    weight = torch.rand(256, 1024, generator=torch.Generator().manual_seed(4)) * 2 - 1
    assert fit_of(weight, IntegerGrid(8, None, True)).boundary_fraction == pytest.approx(0.2, abs=0.005)


def test_boundary_fraction_sees_weights_on_points_and_on_boundaries() -> None:
    grid = IntegerGrid(4, None, True)  # scale 1 in both rows
    on_points = torch.tensor([[-7.0, -2.0, 0.0, 3.0, 7.0]])
    assert fit_of(on_points, grid).boundary_fraction == 0.0
    at_boundaries = torch.tensor([[7.0, 0.5, -1.45, 2.55, 3.3]])
    assert fit_of(at_boundaries, grid).boundary_fraction == 3 / 5


def test_padding_of_a_short_group_counts_nowhere() -> None:
    weight = torch.tensor([[7.0, 0.5, 0.5]])
    grid = IntegerGrid(4, 2, True)  # groups [7, .5] and [.5]; the last scale is .5 / 7
    assert fit_of(weight, grid).boundary_fraction == pytest.approx(1 / 3)


def test_zeros_fit_exactly() -> None:
    weight = torch.zeros(3, 130)
    fit = fit_of(weight, INT4)
    assert (fit.relative_error, fit.boundary_fraction) == (0.0, 0.0)


def test_values_that_are_no_numbers_never_fit() -> None:
    weight = torch.zeros(2, 4)
    assert math.isnan(grid_fit(weight, torch.full((2, 4), torch.nan), None).relative_error)
    assert grid_fit(weight, torch.ones(2, 4), None).relative_error == math.inf
