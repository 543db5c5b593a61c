"""Losses under controls: against float64 models by plain loops, and the same whichever way the model is walked."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.probe import Measurement, Prober
from pipeline.probe.in_memory import measure
from pipeline.quantize import Rule, Variant, round_trip
from pipeline.quantize.controls import Control
from pipeline.quantize.integer import IntegerGrid
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import VOCAB, save_tiny_model, tiny_model
from tests.probe.test_reference import block_weights

SHAPE = TokenShape(batches=3, batch_size=2, seq_len=24)
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (3, 2, 24))
FP32, INT4 = parse_variants(("int4",))
WITH_CONTROLS = ProbeSpec((FP32, INT4), SHAPE, "x", mechanism=(INT4,))


def losses(measured: Measurement, variant: Variant = INT4) -> dict[Control, tuple[float, ...]]:
    return {each.control: each.batch_nll_nats for each in measured.controls if each.variant == str(variant)}


def loss_along(folder: Path, architecture: str, amount: float) -> list[float]:
    """Mean nll per batch of the float64 model with ``amount`` times its rounding error added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.double().eval()
    for weight in block_weights(model, architecture):
        matrix = weight.detach().T if architecture == "gpt2" else weight.detach()
        rounded = rounded_by_loops(matrix.float().contiguous().numpy())
        error = torch.from_numpy(rounded).double() - matrix
        weight.data += amount * (error.T if architecture == "gpt2" else error)
    found = []
    for batch in torch.from_numpy(TOKENS):
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=batch).logits[:, :-1], dim=-1)
        picked = [log_p[i, j, batch[i, j + 1]].item() for i in range(2) for j in range(23)]
        found.append(-math.fsum(picked) / len(picked))
    return found


def rounded_by_loops(matrix: np.ndarray) -> np.ndarray:
    """INT4 with a scale for each 128 weights of a row."""
    out = np.zeros_like(matrix)
    for row in range(matrix.shape[0]):
        for start in range(0, matrix.shape[1], 128):
            group = matrix[row, start : start + 128]
            low, high = min(np.float32(0), group.min()), max(np.float32(0), group.max())
            scale = np.float32(high - low) / np.float32(15)
            zero = np.rint(-low / scale)
            q = np.clip(np.rint(group / scale) + zero, 0, 15)
            out[row, start : start + 128] = (q - zero).astype(np.float32) * scale
    return out


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_losses_along_the_error_agree_with_a_float64_reference(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path, initializer_range=0.1)
    found = losses(Prober(WITH_CONTROLS, TOKENS).measure(folder))
    for amount in (-1.0, -0.5, 0.5, 2.0):
        exact = loss_along(folder, architecture, amount)
        assert found[Control("line", amount)] == pytest.approx(exact, abs=1e-6)


def test_layer_by_layer_and_in_memory_give_the_same_losses(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path, initializer_range=0.1, dtype=torch.float32)
    prober = Prober(dataclasses.replace(WITH_CONTROLS, by_layer=True), TOKENS)
    whole = prober.measure(folder)
    assert prober.layer_by_layer.measure(folder).controls == whole.controls
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert prober.measure_model(model).controls == whole.controls
    assert len(whole.controls) == 4 + 16 + 2 * 3


def test_one_call_measures_the_controls_of_a_model_in_memory(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = measure(model, TOKENS, ("int4",), mechanism=("int4", "layers"))
    exact = Prober(dataclasses.replace(WITH_CONTROLS, by_layer=True), TOKENS).measure(folder)
    assert found.controls == exact.controls
    with pytest.raises(UsageError, match="only fp32 is measured"):
        measure(model, TOKENS, ("fp32",), mechanism=("all",))


def test_a_calibrated_variant_has_the_controls_of_its_own_codes(tmp_path: Path) -> None:
    """The variant's own loss lies on the curve of the losses along its error."""
    folder = save_tiny_model("gpt_neox", tmp_path, initializer_range=0.1)
    (gptq,) = parse_variants(("int4-g32-asym@gptq",))[1:]
    calibration = np.random.default_rng(1).integers(0, VOCAB, (4, 24))
    spec = ProbeSpec((FP32, gptq), SHAPE, "x", mechanism=(gptq,))
    measured = Prober(spec, TOKENS, calibration=calibration).measure(folder)
    base, own = (np.array(result.batch_nll_nats) for result in measured.results)
    line = {
        control.amount: np.array(value)
        for control, value in losses(measured, gptq).items()
        if control.kind == "line"
    }
    amounts = [-1.0, -0.5, 0.0, 0.5, 2.0]
    along = np.array([(base if amount == 0.0 else line[amount]) - base for amount in amounts])
    curves = np.polyfit(
        amounts, along, 4
    )  # through all of them, so f(1) is met but for a term of fifth order
    at_one = np.array([np.polyval(curves[:, batch], 1.0) for batch in range(3)])
    assert at_one == pytest.approx(own - base, abs=3e-4)
    assert np.abs(own - base).max() > 3e-3


def test_a_layer_alone_is_a_variant_of_that_layer(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path, initializer_range=0.1)
    grid = INT4.rules[0].quantizer
    alone = [Variant((Rule(f"layers.{layer}.*", grid),)) for layer in (0, 1)]
    spec = ProbeSpec((FP32, INT4, *alone), SHAPE, "x", mechanism=(INT4,), by_layer=True)
    measured = Prober(spec, TOKENS).measure(folder)
    for layer, result in zip((0, 1), measured.results[2:], strict=True):
        found = losses(measured)[Control("line", 1.0, 0, layer)]
        assert found == pytest.approx(result.batch_nll_nats, abs=1e-6)


def test_controls_change_no_number_of_a_variant(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path)
    plain = Prober(dataclasses.replace(WITH_CONTROLS, mechanism=()), TOKENS).measure(folder)
    assert plain.controls == ()
    assert Prober(WITH_CONTROLS, TOKENS).measure(folder).results == plain.results


def test_controls_of_a_variant_that_is_not_measured_now_are_the_same(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path)
    alone = Prober(dataclasses.replace(WITH_CONTROLS, variants=(FP32,)), TOKENS).measure(folder)
    assert [result.variant for result in alone.results] == ["fp32"]
    assert alone.controls == Prober(WITH_CONTROLS, TOKENS).measure(folder).controls


def test_a_control_that_overflows_is_nan_and_named(tmp_path: Path) -> None:
    """An infinite weight where every input is zero: finite under the variant, twice as far along its error not."""
    model, variant = tiny_model("gpt_neox"), Variant.of(IntegerGrid(2, None, True))
    with torch.no_grad():
        model.gpt_neox.layers[0].post_attention_layernorm.weight[:2] = 0.0
        model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight[0, :2] = torch.tensor([3e38, 1.6e38])
    model.save_pretrained(tmp_path)
    measured = Prober(ProbeSpec((FP32, variant), SHAPE, "x", mechanism=(variant,)), TOKENS).measure(tmp_path)
    assert all(math.isfinite(result.nll_nats) for result in measured.results)
    found = losses(measured, variant)
    assert all(map(math.isnan, found[Control("line", 2.0)]))
    assert all(map(math.isfinite, found[Control("line", 0.5)]))
    (note,) = [note for note in measured.notes if "controls is not finite" in note]
    assert "of 20 controls" in note
    assert "fp32 (relative x 0.02, seed 0)" in note


def test_fp32_has_no_mechanism() -> None:
    with pytest.raises(UsageError, match="mechanism of fp32"):
        dataclasses.replace(WITH_CONTROLS, mechanism=(FP32,))


def test_a_rule_for_no_layer_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path)
    other = Variant((Rule("h.3.*", IntegerGrid(4, 128, False)),))
    with pytest.raises(CheckpointError, match="decides for no layer"):
        Prober(dataclasses.replace(WITH_CONTROLS, mechanism=(other,)), TOKENS).measure(folder)


class ScaledLogits(torch.nn.Module):
    """A model whose loss has a known parabola: one block that gives logits x = scale W e, e a constant input.

    The logits of two tokens are (w e, 0), and the mean loss over tokens 0 and 1 is a known function of w.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(2, weight.shape[1])
        self.embed.weight.data.fill_(1.0)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(weight.shape[1], 1, bias=False)])
        self.blocks[0].weight.data.copy_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        first = self.blocks[0](self.embed(ids))
        return torch.cat([first, torch.zeros_like(first)], dim=-1)


def test_all_losses_of_a_model_of_one_matrix_are_known(tmp_path: Path) -> None:
    """Loss(w) = log(1 + exp(s)) - s q with s the sum of the weights and q the share of token 0 among the targets."""
    weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    tokens = np.random.default_rng(0).integers(0, 2, (4, 2, 9))
    variant = parse_variants(("int4-g16-asym",))[1]
    spec = ProbeSpec((FP32, variant), TokenShape(4, 2, 9), "x", mechanism=(variant,))
    measured = Prober(spec, tokens).measure_model(ScaledLogits(weight))
    quantizer = variant.rules[0].quantizer
    assert quantizer is not None
    error = (round_trip(quantizer, weight) - weight).double()
    share = (tokens[:, :, 1:] == 0).reshape(4, -1).mean(axis=1)
    found = losses(measured, variant)
    for amount in (-1.0, -0.5, 0.5, 2.0):
        total = (weight.double() + amount * error).sum().item()
        exact = np.log1p(np.exp(total)) - total * share
        assert found[Control("line", amount)] == pytest.approx(exact.tolist(), abs=3e-7)
