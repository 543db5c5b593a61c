"""AWQ through the whole probe, against a plain loop that quantizes a model in place, tensor by tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.quantize import Calibration, Variant, round_trip
from pipeline.quantize.awq import ActivationAware
from pipeline.quantize.integer import IntegerGrid
from pipeline.spec import ProbeSpec, TokenShape
from tests.models import VOCAB, save_tiny_model, tiny_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = TokenShape(2, 2, 24)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 2, 24))
CALIBRATION = np.random.default_rng(1).integers(0, VOCAB, (5, 32))
METHOD = ActivationAware(IntegerGrid(3, 8, False))
EACH_ALONE = {"num_key_value_heads": 4}

MODELS: dict[str, tuple[str, dict[str, Any], set[str], set[str]]] = {
    "gpt_neox": ("gpt_neox", {}, {"dense"}, {"query_key_value"}),
    "llama": ("llama", EACH_ALONE, set(), {"q_proj", "k_proj"}),
    "llama, shared heads": ("llama", {}, {"o_proj"}, {"q_proj", "k_proj"}),
    "qwen3": ("qwen3", {}, {"o_proj"}, {"q_proj", "k_proj"}),
    "olmo2": (
        "olmo2",
        EACH_ALONE,
        {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"},
        {"q_proj", "k_proj"},
    ),
    "gpt2": ("gpt2", {}, set(), {"c_attn"}),
}
"""Architecture, settings, layers whose input is not scaled, layers that are not clipped."""


def quantized(model: Any) -> Any:
    """``model`` with its linear layers quantized in place, in the order in which it calls them."""
    linears, inputs = watched(model)
    done: set[str] = set()
    while done != set(linears):
        inputs.clear()
        model(input_ids=torch.from_numpy(CALIBRATION))
        first = next(name for name in inputs if name not in done)
        together = {name: oriented(linears[name]) for name in inputs if inputs[name] is inputs[first]}
        _, calibration = calibration_of(inputs[first])
        for name, encoded in METHOD.encode_together(together, calibration, model.config.to_dict()).items():
            together[name].copy_(METHOD.decode(encoded))
        done.update(together)
    return model


def watched(model: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Its linear layers but for the head, and what they are called with, in that order."""
    inputs: dict[str, torch.Tensor] = {}
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    }
    for name, module in linears.items():
        module.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
    return linears, inputs


def calibration_of(inputs: torch.Tensor) -> tuple[torch.Tensor, Calibration]:
    """Their rows in float64, and what is known of them."""
    rows = inputs.flatten(0, -2).double()
    return rows, Calibration(len(rows), None, rows.T @ rows / len(rows), rows.abs().mean(dim=0))


def oriented(module: Any) -> torch.Tensor:
    weight: torch.Tensor = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_measured_as_a_plain_loop_would(tmp_path, name):
    architecture, settings, unscaled, unclipped = MODELS[name]
    folder = save_tiny_model(architecture, tmp_path, initializer_range=0.1, **settings)
    spec = ProbeSpec((Variant(), Variant.of(METHOD.grid), Variant.of(METHOD)), SHAPE, "x")
    prober = Prober(spec, TOKENS, DEVICE, calibration=CALIBRATION)
    _, nearest, awq = prober.measure(folder).results
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.from_numpy(TOKENS.reshape(-1, 24))
    with torch.no_grad():
        log_p = quantized(model)(input_ids=ids).logits[:, :-1].double().log_softmax(dim=-1)
    expected = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
    assert awq.nll_nats == pytest.approx(expected, abs=5e-6)
    assert abs(awq.nll_nats - nearest.nll_nats) > 1e-4
    rows = [tensor.row() for tensor in awq.tensors]
    assert {row["name"].rpartition(".")[2] for row in rows if row["scale_exponent"] is None} == unscaled
    assert {row["name"].rpartition(".")[2] for row in rows if row["clip_share"] is None} == unclipped
    assert all(row["calibration_tokens"] == CALIBRATION.size for row in rows)
    assert any(row["scale_exponent"] for row in rows)
    assert prober.layer_by_layer.measure(folder).results[2] == awq


def test_an_architecture_without_proven_scales_fails_by_name(tmp_path):
    folder = save_tiny_model("llama", tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"granite"').replace("LlamaFor", "GraniteFor"))
    spec = ProbeSpec((Variant(), Variant.of(METHOD)), SHAPE, "x")
    with pytest.raises(
        CheckpointError, match=r"asym@awq: .* inputs of granite models .* wanted one of .*llama"
    ):
        Prober(spec, TOKENS, DEVICE, calibration=CALIBRATION).measure(folder)


def test_no_matrix_of_a_trained_model_has_a_larger_error_than_rounded_to_nearest():
    model = tiny_model("llama", **EACH_ALONE)
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, 12, (16, 32)) ** 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    linears, inputs = watched(model)
    with torch.no_grad():
        model(input_ids=ids)
        for first in linears:
            together = {name: linears[name].weight for name in inputs if inputs[name] is inputs[first]}
            rows, calibration = calibration_of(inputs[first])
            for name, encoded in METHOD.encode_together(
                together, calibration, model.config.to_dict()
            ).items():
                ours, nearest = (
                    (rows @ (values - together[name]).double().T).square().sum()
                    for values in (METHOD.decode(encoded), round_trip(METHOD.grid, together[name]))
                )
                assert ours <= nearest * (1 + 1e-6), name
