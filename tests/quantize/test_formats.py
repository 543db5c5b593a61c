"""Formats with fixed blocks and HQQ, bit for bit against the libraries that define them."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

from pipeline.base.errors import UsageError
from pipeline.quantize import Variant, parse_quantizer, round_trip
from pipeline.quantize.nf4 import VALUES, NormalFloat
from tests.quantize.test_integer import edge_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, while they are imported

FORMATS = ("nf4-b64", "mxfp4", "mxfp4-rceil", "nvfp4", "q4_0")
HQQ = ("int3-g64-asym@hqq", "int4-g64-asym@hqq")
HQQ_LIBRARY = Path(__file__).with_name("hqq_0.2.8.npz")
"""What hqq 0.2.8.post1 makes of ``random`` and of each edge row, groups of 64, float32 on a CPU. Its numbers are
kept because transformers imports the library wherever it is installed, which takes seconds and warns."""


def edges(n: int = 256) -> torch.Tensor:
    return torch.stack(list(edge_rows(n).values()))


def random(rows: int = 64, columns: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02


def ours(text: str, weight: torch.Tensor) -> torch.Tensor:
    quantizer = parse_quantizer(text)
    assert quantizer is not None
    return round_trip(quantizer, weight)


def of_bitsandbytes(weight: torch.Tensor) -> torch.Tensor:
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    return functional.dequantize_4bit(packed, state).to(torch.float32)


def of_mx(weight: torch.Tensor, mode: ScaleCalculationMode) -> torch.Tensor:
    return MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32, mode).dequantize(torch.float32)


def of_nvfp4(weight: torch.Tensor) -> torch.Tensor:
    scale = per_tensor_amax_to_scale(weight.abs().max())
    return NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=scale).dequantize(torch.float32)


def of_gguf(weight: torch.Tensor) -> torch.Tensor:
    kind = gguf.GGMLQuantizationType.Q4_0
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))


ORACLES = {
    "nf4-b64": of_bitsandbytes,
    "mxfp4": lambda weight: of_mx(weight, ScaleCalculationMode.FLOOR),
    "mxfp4-rceil": lambda weight: of_mx(weight, ScaleCalculationMode.RCEIL),
    "nvfp4": of_nvfp4,
    "q4_0": of_gguf,
}


@pytest.mark.parametrize("text", FORMATS)
@pytest.mark.parametrize("seed", range(4))
def test_random_weights_are_bit_equal_to_the_library(text: str, seed: int) -> None:
    weight = random(seed=seed)
    assert torch.equal(ours(text, weight), ORACLES[text](weight))


@pytest.mark.parametrize("text", FORMATS)
def test_edge_rows_are_bit_equal_to_the_library(text: str) -> None:
    weight = edges()
    assert torch.equal(ours(text, weight), ORACLES[text](weight))


@pytest.mark.parametrize("text", HQQ)
def test_hqq_is_bit_equal_to_its_library(text: str) -> None:
    library = np.load(HQQ_LIBRARY)
    for seed in range(3):
        found = ours(text, random(12, seed=seed))
        assert torch.equal(found, torch.from_numpy(library[f"{text[:4]}_seed{seed}"]))
    # The stop is decided over a whole matrix: one row at a time tells edge rows apart.
    rows = torch.cat([ours(text, row[None]) for row in edges()])
    assert torch.equal(rows, torch.from_numpy(library[f"{text[:4]}_edges"]))


@pytest.mark.parametrize("text", [*FORMATS, *HQQ])
def test_a_short_last_block_is_a_block(text: str) -> None:
    weight = random(8, 128)
    cut = weight[:, :80].contiguous()
    found = ours(text, cut)
    assert found.shape == cut.shape
    assert 0.02 < ((found - cut).norm() / cut.norm()).item() < 0.3
    if text.startswith(("mxfp4", "q4_0")):  # blocks of rows: whole blocks are as in the wider weight
        assert torch.equal(found[:, :64], ours(text, weight)[:, :64])
        padded = torch.nn.functional.pad(cut, (0, 16))
        assert torch.equal(found, ours(text, padded)[:, :80])


@pytest.mark.parametrize("text", FORMATS)
def test_weights_too_small_for_a_scale_are_finite_and_no_larger(text: str) -> None:
    weight = torch.tensor([[1e-45, -3e-45, 0.0, 1e-40, 1e-38, -2e-39, 0.0, 7e-45] * 8])
    found = ours(text, weight)
    assert found.isfinite().all()
    assert (found.abs() <= 2 * weight.abs().max()).all()


def test_hqq_takes_the_mean_of_a_short_group_over_its_own_weights() -> None:
    weight = random(4, 96)
    tail = weight[:, 64:].contiguous()
    found = ours("int4-g64-asym@hqq", torch.cat([weight[:, :64] * 0, tail], dim=1))
    assert ((found[:, 64:] - tail).norm() / tail.norm()).item() < 0.12


def test_nf4_values_are_the_quantiles_of_the_paper() -> None:
    """QLoRA's construction: quantiles of the normal law, 8 below zero and 9 above, scaled to [-1, 1]."""
    from scipy.stats import norm

    edge = 0.9677083
    positive = norm.ppf(np.linspace(edge, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(edge, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([negative, [0.0], positive])) / positive.max()
    np.testing.assert_allclose(VALUES, expected, atol=1e-6)


def test_a_value_halfway_takes_the_lower_code() -> None:
    values = torch.tensor(VALUES, dtype=torch.float64)
    halfway = ((values[1:] + values[:-1]) / 2).float()
    weight = torch.cat([torch.tensor([1.0]), halfway]).reshape(1, 16)
    codes = NormalFloat(16).encode(weight).codes
    assert codes.flatten().tolist() == [15.0, *map(float, range(15))]


def test_relative_errors_of_normal_weights_are_those_of_the_field() -> None:
    weight = random(256, 1024)
    errors = {text: ((ours(text, weight) - weight).norm() / weight.norm()).item() for text in FORMATS}
    assert errors["nf4-b64"] == pytest.approx(0.0920, abs=0.001)
    assert errors["nvfp4"] < errors["mxfp4-rceil"] < 0.14


@pytest.mark.parametrize(
    "text", ["nf4", "nf4-b0", "mxfp4-floor", "q4_1", "int4-g64-sym@hqq", "int4-g64-asym@hqq:x=1"]
)
def test_names_that_are_no_format_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Variant.parse(text)


@pytest.mark.parametrize("text", [*FORMATS, *HQQ])
def test_names_are_read_back(text: str) -> None:
    assert str(Variant.parse(text)) == text
