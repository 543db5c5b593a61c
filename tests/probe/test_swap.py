"""Rounding errors of one checkpoint on the weights of another: against float64, and what is known without it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, parse_variants
from tests.models import save_tiny_model
from tests.probe.test_controls import SHAPE, TOKENS, rounded_by_loops
from tests.probe.test_reference import block_weights

VARIANTS = parse_variants(("int8", "int4"))
SPEC = ProbeSpec(VARIANTS, SHAPE, "x", swap=(10, 20)).at({10})


@pytest.fixture(params=["gpt_neox", "gpt2"])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    made = [save_tiny_model(request.param, tmp_path / str(s), s, initializer_range=0.1) for s in (0, 1)]
    return request.param, made[0], made[1]


def float64_model(folder: Path):
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return found.double().eval()


def swapped_by_loops(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``own`` plus the INT4 error of ``other``, as large as that of ``own`` in every group of 128 weights of a row."""
    errors = [rounded_by_loops(each).astype(np.float64) - each for each in (own, other)]
    out = own.astype(np.float64)
    for row in range(own.shape[0]):
        for start in range(0, own.shape[1], 128):
            there, here = (each[row, start : start + 128] for each in reversed(errors))
            size, wanted = (math.sqrt(math.fsum(v * v for v in each)) for each in (there, here))
            out[row, start : start + 128] += there * (wanted / size if size else 0.0)
    return out


def test_losses_agree_with_a_float64_reference(folders: tuple[str, Path, Path]) -> None:
    architecture, here, there = folders
    model, other = float64_model(here), float64_model(there)
    pairs = zip(block_weights(model, architecture), block_weights(other, architecture), strict=True)
    for weight, its in pairs:
        matrices = [
            (w.detach().T if architecture == "gpt2" else w.detach()).float().numpy() for w in (weight, its)
        ]
        swapped = torch.from_numpy(swapped_by_loops(*matrices))
        weight.data.copy_(swapped.T if architecture == "gpt2" else swapped)
    exact = []
    for batch in torch.from_numpy(TOKENS):
        with torch.no_grad():
            logits = model(input_ids=batch).logits[:, :-1]
        exact.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item())
    measured = Prober(SPEC, TOKENS).measure(here, beside=there)
    int8, int4 = measured.swaps
    assert (int8.variant, int4.variant) == ("int8-channel-sym", "int4-g128-asym")
    assert int4.batch_nll_nats == pytest.approx(exact, abs=1e-6)
    assert {each.error_step for each in measured.swaps} == {20}
    theirs = Prober(ProbeSpec(VARIANTS, SHAPE, "x"), TOKENS).measure(there)
    assert int4.error_sha256 == theirs.weights_sha256


def test_its_own_errors_are_the_plain_damage(folders: tuple[str, Path, Path]) -> None:
    _, here, _ = folders
    measured = Prober(SPEC, TOKENS).measure(here, beside=here)
    for swap, own in zip(measured.swaps, measured.results[1:], strict=True):
        assert swap.batch_nll_nats == pytest.approx(own.batch_nll_nats, abs=1e-7)
    alone = Prober(dataclasses.replace(SPEC, swap=(), swapped=()), TOKENS).measure(here)
    assert [each.batch_nll_nats for each in alone.results] == [
        each.batch_nll_nats for each in measured.results
    ]


def test_another_model_and_layer_by_layer_are_refused(tmp_path: Path) -> None:
    here = save_tiny_model("gpt_neox", tmp_path / "here")
    other = save_tiny_model("gpt_neox", tmp_path / "other", num_hidden_layers=3)
    prober = Prober(SPEC, TOKENS)
    with pytest.raises(CheckpointError, match="different models"):
        prober.measure(here, beside=other)
    with pytest.raises(CheckpointError, match="--swap needs the weights of two checkpoints"):
        prober.layer_by_layer.measure(here, beside=here)
