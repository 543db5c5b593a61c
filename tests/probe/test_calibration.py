"""Calibrated quantizers against a plain loop: the whole model is run anew before each layer is quantized in place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.probe import Prober, calibration
from pipeline.quantize import (
    Calibration,
    CalibrationOutcome,
    CalibrationProblem,
    Encoded,
    Need,
    Quantizer,
    Rule,
    Variant,
)
from pipeline.quantize.integer import IntegerGrid
from pipeline.spec import ProbeSpec, TokenShape
from tests.models import VOCAB, save_tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = TokenShape(2, 2, 24)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 2, 24))
CALIBRATION = np.random.default_rng(1).integers(0, VOCAB, (5, 32))


@dataclass(frozen=True)
class Scaled(Quantizer):
    """Rounds weights times the mean size of their inputs, so that busy columns get a finer grid."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUTS})

    grid: IntegerGrid

    def __str__(self) -> str:
        return f"{self.grid}@scaled"

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        assert calibration is not None
        scale_I = self.scale(calibration)
        encoded = self.grid.encode(weight * scale_I)
        return Encoded(encoded.codes, {**encoded.parameters, "columns": scale_I})

    def decode(self, encoded: Encoded) -> Tensor:
        return self.grid.decode(encoded) / encoded.parameters["columns"]

    def scale(self, calibration: Calibration) -> Tensor:
        assert calibration.inputs is not None
        assert calibration.second_moments is None
        assert calibration.inputs.shape[0] == calibration.n_rows == CALIBRATION.size
        return calibration.inputs.abs().mean(dim=0) + 1e-3


@dataclass(frozen=True)
class Weighted(Scaled):
    """The same by the root mean square."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.SECOND_MOMENTS})

    def __str__(self) -> str:
        return f"{self.grid}@weighted"

    def scale(self, calibration: Calibration) -> Tensor:
        assert calibration.inputs is None
        assert calibration.second_moments is not None
        return calibration.second_moments.diagonal().sqrt().float() + 1e-3


GRID = IntegerGrid(3, 8, False)


def column_scale(quantizer: Quantizer, inputs: Tensor) -> Tensor:
    if isinstance(quantizer, Weighted):
        return inputs.double().square().mean(dim=0).sqrt().float() + 1e-3
    return inputs.abs().mean(dim=0) + 1e-3


def sequentially(model: Any, variant: Variant) -> Any:
    """Quantizes ``model`` in place, layer by layer in the order in which it calls them."""
    ids, order = torch.from_numpy(CALIBRATION), []
    linears = {
        name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)
    }
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
        for name, module in linears.items()
    ]
    with torch.no_grad():
        model(input_ids=ids)
        for hook in hooks:
            hook.remove()
        for name in order:
            module, seen = linears[name], []
            quantizer = variant.quantizer_of(name, is_head=module is model.get_output_embeddings())
            if quantizer is None:
                continue
            hook = module.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].clone()))
            model(input_ids=ids)
            hook.remove()
            turned = isinstance(module, Conv1D)
            weight = module.weight.T if turned else module.weight
            scale = (
                column_scale(quantizer, seen[0].flatten(0, -2))
                if quantizer.needs
                else torch.ones(weight.shape[1])
            )
            grid = quantizer.grid if isinstance(quantizer, Scaled) else quantizer
            values = grid.decode(grid.encode((weight * scale).contiguous())) / scale
            module.weight = torch.nn.Parameter((values.T if turned else values).contiguous())
    return model


def expected_nll(folder, architecture: str, variant: Variant) -> float:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.from_numpy(TOKENS.reshape(-1, 24))
    with torch.no_grad():
        log_p = sequentially(model.eval(), variant)(input_ids=ids).logits[:, :-1].double().log_softmax(dim=-1)
    return -log_p.gather(-1, ids[:, 1:, None]).mean().item()


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("rows", [4 * 2 * 32, 10**6], ids=["2, 2 and 1 sequences", "all at once"])
def test_layers_are_calibrated_in_turn_on_what_quantized_layers_give(
    tmp_path, monkeypatch, architecture, rows
):
    monkeypatch.setattr(calibration, "CHUNK_ROWS", rows)
    folder = save_tiny_model(architecture, tmp_path, initializer_range=0.1)
    first = "*.h.0.*" if architecture == "gpt2" else "layers.0.*"
    variants = (
        Variant(),
        Variant.of(Scaled(GRID)),
        Variant.of(GRID),
        Variant.of(Weighted(GRID), head=architecture == "llama"),
        Variant((Rule(first, GRID), Rule("*", Scaled(GRID)))),
        Variant((Rule(first, Scaled(GRID)),)),
    )
    prober = Prober(ProbeSpec(variants, SHAPE, "x"), TOKENS, DEVICE, calibration=CALIBRATION)
    whole = prober.measure(folder)
    for variant, result in zip(variants, whole.results, strict=True):
        assert result.nll_nats == pytest.approx(expected_nll(folder, architecture, variant), abs=5e-6), (
            variant
        )
    assert whole.results[1].nll_nats != whole.results[2].nll_nats
    assert prober.layer_by_layer.measure(folder).results == whole.results
    if architecture == "llama":
        assert whole.results[3].tensors[-1].name == "lm_head"
    uncalibrated = Prober(ProbeSpec((variants[0], variants[2]), SHAPE, "x"), TOKENS, DEVICE).measure(folder)
    beside = [dataclasses.replace(tensor, more={}) for tensor in whole.results[2].tensors]
    assert list(uncalibrated.results[1].tensors) == beside


def test_without_calibration_tokens_a_variant_that_needs_them_is_refused():
    spec = ProbeSpec((Variant(), Variant.of(Scaled(GRID))), SHAPE, "x")
    with pytest.raises(UsageError, match=r"int3-g8-asym@scaled needs calibration tokens"):
        Prober(spec, TOKENS)


def test_a_quantizer_that_gives_no_numbers_fails_by_the_layers_name(tmp_path):
    @dataclass(frozen=True)
    class Divides(Scaled):
        def scale(self, calibration: Calibration) -> Tensor:
            return super().scale(calibration) * 0.0

    folder = save_tiny_model("llama", tmp_path)
    spec = ProbeSpec((Variant(), Variant.of(Divides(GRID))), SHAPE, "x")
    with pytest.raises(
        CheckpointError, match=r"0\.self_attn\.q_proj cannot be quantized to int3-g8-asym@scaled"
    ):
        Prober(spec, TOKENS, DEVICE, calibration=CALIBRATION).measure(folder)


def test_calibration_tokens_beyond_the_vocabulary_are_refused(tmp_path):
    spec = ProbeSpec((Variant(), Variant.of(Scaled(GRID))), SHAPE, "x")
    beyond = CALIBRATION.copy()
    beyond[0, 0] = VOCAB
    with pytest.raises(CheckpointError, match=f"the evaluation tokens reach {VOCAB}"):
        Prober(spec, TOKENS, DEVICE, calibration=beyond).measure(save_tiny_model("llama", tmp_path))


class Counting(Weighted):
    """One that says how its calibration went."""

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        assert calibration is not None
        assert calibration.second_moments is not None
        if not calibration.n_rows:
            assert not calibration.second_moments.any()
            problem = CalibrationProblem.NO_TOKENS
            outcome = CalibrationOutcome(0, weight.shape[1], None, problem, rounded=True)
            return dataclasses.replace(self.grid.encode(weight), outcome=outcome)
        outcome = CalibrationOutcome(calibration.n_rows, dead_columns=3, damping=0.01)
        return dataclasses.replace(super().encode(weight, calibration), outcome=outcome)

    def decode(self, encoded: Encoded) -> Tensor:
        return super().decode(encoded) if "columns" in encoded.parameters else self.grid.decode(encoded)


def test_how_a_calibration_went_is_a_row_of_each_matrix(tmp_path):
    folder = save_tiny_model("llama", tmp_path)
    spec = ProbeSpec((Variant(), Variant.of(GRID), Variant.of(Counting(GRID))), SHAPE, "x")
    fp32, plain, counted = Prober(spec, TOKENS, DEVICE, calibration=CALIBRATION).measure(folder).results
    for tensor in counted.tensors:
        row = tensor.row()
        assert (row["calibration_tokens"], row["dead_columns"], row["damping"]) == (CALIBRATION.size, 3, 0.01)
        assert (row["rounded_to_nearest"], row["calibration_problem"]) == (0, None)
    for tensor in (*fp32.tensors, *plain.tensors):
        assert tensor.row()["calibration_tokens"] is tensor.row()["rounded_to_nearest"] is None


def test_a_layer_that_no_calibration_token_reaches_says_so(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    folder = save_tiny_model("llama", tmp_path)
    forward = LlamaMLP.forward
    spec = ProbeSpec((Variant(), Variant.of(Counting(GRID))), SHAPE, "x")
    prober = Prober(spec, TOKENS, DEVICE, calibration=CALIBRATION)
    monkeypatch.setattr(  # as of an expert that is chosen for other tokens
        LlamaMLP, "forward", lambda self, x: x if x.shape[1] == CALIBRATION.shape[1] else forward(self, x)
    )
    rows = {tensor.name: tensor.row() for tensor in prober.measure(folder).results[1].tensors}
    for name, row in rows.items():
        unreached = ".mlp." in name
        assert row["calibration_tokens"] == (0 if unreached else CALIBRATION.size)
        assert row["calibration_problem"] == ("no calibration token reaches it" if unreached else None)
        assert row["rounded_to_nearest"] == unreached


def test_a_layer_that_calls_its_linear_layers_otherwise_gets_the_same_weights(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    folder = save_tiny_model("llama", tmp_path)
    spec = ProbeSpec((Variant(), Variant.of(Counting(GRID))), SHAPE, "x")
    prober = Prober(spec, TOKENS, DEVICE, calibration=CALIBRATION)
    expected = prober.measure(folder)

    def forward(mlp, x):
        again = (
            x.clone() if ".1." in mlp.up_proj.name else x
        )  # no longer the tensor that the gate is called with
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(again))

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    assert prober.measure(folder).results == expected.results


def test_layers_that_some_chunks_do_not_reach_get_all_of_their_tokens(tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    monkeypatch.setattr(calibration, "CHUNK_ROWS", 2 * 32)  # chunks of 2, 2 and 1 sequences
    folder = save_tiny_model("llama", tmp_path)
    forward = LlamaMLP.forward

    def as_of_experts(self: LlamaMLP, x: Tensor) -> Tensor:
        if x.shape[:2] == (2, 32):  # the first chunks reach up_proj alone
            return x + 0.1 * self.up_proj(x)[..., : x.shape[-1]]
        return forward(self, x)

    spec = ProbeSpec((Variant(), Variant.of(Counting(GRID))), SHAPE, "x")
    prober = Prober(spec, TOKENS, "cpu", calibration=CALIBRATION)  # a GPU's chunks follow from its memory
    monkeypatch.setattr(LlamaMLP, "forward", as_of_experts)
    for tensor in prober.measure(folder).results[1].tensors:
        layer = tensor.name.rpartition(".")[2]
        assert tensor.row()["calibration_tokens"] == (32 if layer in ("gate_proj", "down_proj") else 5 * 32)
