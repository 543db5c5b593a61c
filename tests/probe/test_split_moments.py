"""Second moments and products of calibration tokens on the kernels' path, against float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from pipeline.probe.gpu.split_moments import sum_of_squares
from pipeline.probe.gpu.triton_backend import TritonBackend
from pipeline.spec import ProbeSpec, TokenShape, Variant

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    found = torch.randn(rows, columns, generator=generator) * torch.logspace(-6, 3, columns)
    found[:, 2] = 0.0
    found[0, 3] = 1e4  # an outlier
    found[:, 4] = 1e-40
    return found.to(DEVICE)


@pytest.mark.parametrize("rows", [1, 1000, 3000])
def test_second_moments_have_the_accuracy_of_float32(rows):
    x = inputs(rows, 40)
    found, exact = sum_of_squares(x), x.double().T @ x.double()
    size = exact.diagonal().sqrt()
    error = (found - exact).abs() / (size * size[:, None]).clamp(min=1e-300)
    assert error.max() < 1e-5  # 1,024 rows at a time in tensor cores, which truncate: 6e-6 on an H200
    assert torch.equal(found, found.T)
    assert not found[2].any()


def test_products_of_calibration_tokens_have_the_accuracy_of_float32():
    x = inputs(70, 32).view(2, 35, 32)
    weights = (torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0)) * 0.02).to(DEVICE)
    bias = torch.linspace(-1, 1, 9).to(DEVICE)
    spec = ProbeSpec((Variant(),), TokenShape(1, 1, 8), "x", arithmetic="split")
    found = TritonBackend(spec, torch.device(DEVICE)).products(x, weights, bias)
    exact = x.double() @ weights.double().mT + bias.double()
    size = x.double().abs() @ weights.double().abs().mT + bias.double().abs()
    assert ((found - exact).abs() <= size * 2e-6).all()
