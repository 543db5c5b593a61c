"""The kernel of GPTQ's blocks against the definition."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("triton")

from pipeline.quantize import Calibration, parse_quantizer
from pipeline.quantize.triton.fast_encode import encode_together

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("int4-g16-asym@gptq", (21, 40)),
        ("int3-channel-sym@gptq", (8, 33)),
        ("int4-g16-asym@gptq:order=activation", (9, 40)),
    ],
)
def test_codes_and_scales_are_those_of_the_definition(name, shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * 0.02
    weight[1] = 0.0
    weight[2] *= 1e-30
    inputs = torch.randn(200, shape[1], generator=generator, dtype=torch.float64).cumsum(dim=1)
    inputs[:, 5] = 0.0
    calibration = Calibration(200, second_moments=(inputs.T @ inputs / 200).to(DEVICE))
    quantizer = parse_quantizer(name)
    expected = quantizer.encode(weight.to(DEVICE), calibration)
    found = encode_together(quantizer, {"w": weight.to(DEVICE)}, calibration, {})["w"]
    assert (found.codes == expected.codes).all()
    for key, value in expected.parameters.items():
        assert torch.equal(found.parameters[key], value)
    assert dataclasses.replace(found.outcome, output_error=0.0) == dataclasses.replace(
        expected.outcome, output_error=0.0
    )


def test_a_whole_block_is_done_at_once():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 140, generator=generator) * 0.02
    inputs = torch.randn(300, 140, generator=generator, dtype=torch.float64)
    calibration = Calibration(300, second_moments=(inputs.T @ inputs / 300).to(DEVICE))
    quantizer = parse_quantizer("int4-channel-asym@gptq")
    codes = encode_together(quantizer, {"w": weight.to(DEVICE)}, calibration, {})["w"].codes
    assert torch.equal(codes, quantizer.encode(weight.to(DEVICE), calibration).codes)
