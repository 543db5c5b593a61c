"""A quantizer gives the same values on every device."""

from __future__ import annotations

import pytest
import torch

from pipeline.quantize import parse_quantizer, round_trip

NAMES = (
    "int4-g128-asym", "int8-channel-sym", "nf4-b64", "mxfp4", "mxfp4-rceil", "nvfp4", "q4_0", "int4-g64-asym@hqq",
)  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-6, 0.02, 3.0])
def test_values_on_a_gpu_are_those_on_the_cpu(name: str, scale: float) -> None:
    quantizer = parse_quantizer(name)
    assert quantizer is not None
    weight = torch.randn(512, 384, generator=torch.Generator().manual_seed(0)) * scale
    weight[7] = 0
    on_cpu, on_gpu = round_trip(quantizer, weight), round_trip(quantizer, weight.cuda()).cpu()
    if "hqq" in name:  # its powers and means are rounded by each device's own arithmetic
        assert ((on_gpu - on_cpu).norm() / weight.norm()).item() < 1e-3
    else:
        assert torch.equal(on_gpu, on_cpu)
