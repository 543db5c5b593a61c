"""A fused pass quantizes with what was calibrated."""

from __future__ import annotations

import pytest
import torch

from pipeline.probe import Prober
from pipeline.quantize import (
    Variant,
)
from pipeline.spec import ProbeSpec, TokenShape
from tests.models import save_tiny_model
from tests.probe.test_calibration import CALIBRATION, DEVICE, GRID, TOKENS, Scaled


@pytest.mark.slow
def test_a_fused_pass_uses_what_was_calibrated(tmp_path):
    pytest.importorskip("triton")
    from pipeline.probe.gpu.triton_backend import TritonBackend

    small = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 1, "vocab_size": 16}
    folder = save_tiny_model("gpt_neox", tmp_path, initializer_range=0.3, num_hidden_layers=1, **small)
    tokens, calibration_tokens = TOKENS[:1, :, :4] % 16, CALIBRATION % 16
    variants = (Variant(), Variant.of(GRID), Variant.of(Scaled(GRID)))
    fused, exact = (
        ProbeSpec(variants, TokenShape(1, 2, 4), "x", arithmetic=arithmetic)
        for arithmetic in ("split", "ieee")
    )
    on_kernels = Prober(
        fused,
        tokens,
        DEVICE,
        backend=TritonBackend(fused, torch.device(DEVICE)),
        calibration=calibration_tokens,
    )
    found = on_kernels.measure(folder)
    assert found.notes == ()
    expected = Prober(exact, tokens, calibration=calibration_tokens).measure(folder)
    for ours, theirs in zip(found.results, expected.results, strict=True):
        assert ours.nll_nats == pytest.approx(theirs.nll_nats, abs=2e-6)
    errors, exact_errors = (
        [result.tensors[-1].relative_error for result in each.results[1:]] for each in (found, expected)
    )
    # Split products round the calibration inputs their own way, which the scales that are made of them show.
    assert errors == pytest.approx(exact_errors, rel=1e-6)
    assert errors[0] != errors[1]
