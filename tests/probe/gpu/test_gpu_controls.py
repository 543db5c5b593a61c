"""Controls on the GPU's kernels against those of the CPU: the same draws, the same losses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from pipeline.probe import Measurement, Prober
from pipeline.quantize import round_trip
from pipeline.quantize.control_variant import Perturbed
from pipeline.quantize.controls import Control, ControlSettings
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.triton.packing import pack
from pipeline.spec import ProbeSpec
from tests.probe.gpu.test_gpu_engine import DEVICE, TOKENS, on_kernels, save, spec

gpu = pytest.mark.gpu  # too slow for the interpreter
GRID = IntegerGrid(4, 8, False)
FEWEST = ControlSettings(2, 2, 2, 2, 2)


def with_controls(arithmetic: str, *variants: str, by_layer: bool = False) -> ProbeSpec:
    probe = spec(arithmetic, *variants)
    return dataclasses.replace(
        probe,
        mechanism=(probe.variants[1],),
        by_layer=by_layer,
        controls=FEWEST if DEVICE.type == "cpu" else ControlSettings(),
    )


def assert_same_losses(found: Measurement, exact: Measurement, tolerance: float = 2e-6) -> None:
    assert len(found.controls) == len(exact.controls) > 0
    for ours, theirs in zip(found.controls, exact.controls, strict=True):
        assert (ours.variant, ours.control) == (theirs.variant, theirs.control)
        assert ours.batch_nll_nats == pytest.approx(theirs.batch_nll_nats, abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_packed_controls_hold_their_weights(dtype: torch.dtype) -> None:
    weight = (torch.randn(5, 20, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)
    drawn = [
        Perturbed(GRID, each, "up") for each in (Control("line", 2.0), Control("signs"), Control("permuted"))
    ]
    quantizers = (None, *drawn, GRID, Perturbed(None, Control("relative", 0.05, 1), "up"))
    packed = pack(weight.to(DEVICE), quantizers)
    for slot, quantizer in enumerate(quantizers):
        exact = weight.float() if quantizer is None else round_trip(quantizer, weight.float())
        low, high, _ = packed.operand[slot].double().cpu().chunk(3, dim=1)
        values = (high + low if packed.three[slot] else high) * packed.scale[slot].double().cpu()[:, None]
        largest = exact.double().abs().amax(dim=1, keepdim=True)
        assert ((values - exact.double()).abs() <= largest * 2.0**-22).all(), quantizer
        squares = exact.double().square().sum(dim=1)
        assert torch.allclose(packed.row_squares[slot].cpu(), squares, rtol=1e-6, atol=0.0)


def test_the_fused_pass_gives_the_losses_of_the_cpu(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", hidden_size=8, intermediate_size=8)
    found = on_kernels(with_controls("split", "int4-g8-asym")).measure(folder)
    assert found.notes == ()
    assert_same_losses(found, Prober(with_controls("ieee", "int4-g8-asym"), TOKENS).measure(folder))


@gpu
@pytest.mark.parametrize(
    ("architecture", "arithmetic"),
    [("gpt_neox", "split"), ("gpt_neox", "ieee"), ("qwen2", "split"), ("gpt2", "split")],
)
def test_every_way_through_a_model_gives_the_losses_of_the_cpu(
    tmp_path: Path, architecture: str, arithmetic: str
) -> None:
    folder = save(tmp_path / "a", architecture)
    prober = on_kernels(with_controls(arithmetic, "int4-g8-asym", by_layer=True))
    found = prober.measure(folder)
    exact = Prober(with_controls("ieee", "int4-g8-asym", by_layer=True), TOKENS).measure(folder)
    assert_same_losses(found, exact)
    assert prober.layer_by_layer.measure(folder).controls == found.controls


@gpu
@pytest.mark.parametrize("kind", ["line", "signs", "permuted", "gaussian", "relative"])
def test_draws_are_equal_on_every_device(kind: str) -> None:
    weight = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)) * 0.02
    quantizer = Perturbed(None if kind == "relative" else GRID, Control(kind, 1.0, 3), "up")  # type: ignore[arg-type]
    here, there = round_trip(quantizer, weight), round_trip(quantizer, weight.to(DEVICE)).cpu()
    if kind in ("line", "signs", "permuted"):
        assert torch.equal(here, there)
    assert (here - there).abs().max() <= 2.0**-24
