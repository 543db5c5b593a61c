"""Models whose code does something of its own with linear layers, and config.json files that ask for more than a model
is: measured right, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, FalconConfig, XmodConfig
from transformers.models.llama import modeling_llama

from pipeline.base.errors import CheckpointError
from pipeline.models.linear_layers import linear_sites
from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from pipeline.suites import open_suite
from pipeline.suites.model_config import context_length, model_config
from tests.models import save_tiny_model, tiny_model

VOCAB, LENGTH = 64, 16
SPEC = ProbeSpec(parse_variants(("int4-g8-asym",)), TokenShape(2, 1, LENGTH), "x")
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 1, LENGTH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_model("llama", tmp_path / "step0", vocab_size=VOCAB)


def ways(prober: Prober) -> list[Any]:
    return [prober.measure, prober.layer_by_layer.measure]


class Named(nn.Linear):
    """``nn.Linear`` by another name."""


class Spelled(nn.Linear):
    """``nn.Linear`` in other words, as Falcon has it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T if self.bias is None else x @ self.weight.T + self.bias


class Clipped(nn.Linear):
    """Leaves small inputs alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.clamp(-100, 100))


class Rounded(nn.Linear):
    """Rounds its input, as layers do that quantize their activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x * 16).round() / 16)


def test_a_linear_layer_with_a_forward_of_its_own_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = modeling_llama.LlamaMLP.__init__

    def with_rounded(self: Any, config: Any) -> None:
        make(self, config)
        self.up_proj = Rounded(config.hidden_size, config.intermediate_size, bias=False)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "__init__", with_rounded)
    for measure in ways(Prober(SPEC, TOKENS)):
        with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj \(Rounded\), .* computes more"):
            measure(folder)


@pytest.mark.parametrize(
    ("kind", "refused"), [(Named, False), (Spelled, False), (Clipped, True), (Rounded, True)]
)
def test_whether_a_class_of_layers_is_taken_hangs_on_what_it_does(kind: type, refused: bool) -> None:
    model = tiny_model("llama", vocab_size=VOCAB)
    for place in ("lm_head", "model.layers.1.mlp.up_proj"):
        old = model.get_submodule(place)
        model.set_submodule(place, kind(old.in_features, old.out_features, bias=False))
    if refused:
        with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj.*its output head \("):
            linear_sites(model)
    else:
        assert len(linear_sites(model)) == 15


@pytest.mark.parametrize("bias", [False, True])
def test_falcon_is_measured(tmp_path: Path, bias: bool) -> None:
    config = FalconConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, bias=bias
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    expected = np.mean([model(input_ids=ids, labels=ids).loss.item() for ids in torch.from_numpy(TOKENS)])
    whole, layered = (measure(tmp_path) for measure in ways(Prober(SPEC, TOKENS)))
    assert whole.results[0].nll_nats == pytest.approx(expected, abs=2e-6)
    assert layered.results == whole.results


def test_a_model_whose_own_forward_fails_is_refused_by_name(tmp_path: Path) -> None:
    config = XmodConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        is_decoder=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"XmodForCausalLM cannot be called with tokens alone.*language"
    ):
        Prober(SPEC, TOKENS).measure(tmp_path)


def call_of(monkeypatch: pytest.MonkeyPatch, forward: Any) -> None:
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", forward)


def test_code_that_looks_at_the_dtype_of_a_weight_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prober, forward = Prober(SPEC, TOKENS), modeling_llama.LlamaMLP.forward
    expected = prober.measure(folder)

    def looks(self: Any, x: torch.Tensor) -> torch.Tensor:
        assert self.down_proj.weight.shape == (self.down_proj.out_features, self.down_proj.in_features)
        return forward(self, x.to(self.up_proj.weight.device, self.up_proj.weight.dtype))

    call_of(monkeypatch, looks)
    for measure in ways(prober):
        assert measure(folder).results == expected.results


@pytest.mark.parametrize(
    "read",
    [
        nn.functional.linear,
        lambda x, weight: x @ weight.T,
        lambda x, weight: x * weight.sum(),
    ],
    ids=["by a function", "by an operator", "by its values"],
)
def test_code_that_computes_with_a_weight_by_itself_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, read: Any
) -> None:
    forward = modeling_llama.LlamaMLP.forward

    def computes(self: Any, x: torch.Tensor) -> torch.Tensor:
        read(x, self.up_proj.weight)
        return forward(self, x)

    call_of(monkeypatch, computes)
    for measure in ways(Prober(SPEC, TOKENS)):
        with pytest.raises(CheckpointError, match="reads the weights of a linear layer by itself"):
            measure(folder)


def rewrite_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize("kernel", ["flash_attention_2", "kernels-community/flash-attn", "none of these"])
@pytest.mark.parametrize("setting", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_that_config_json_asks_for_is_no_part_of_the_model(
    folder: Path, setting: str, kernel: str
) -> None:
    prober = Prober(SPEC, TOKENS)
    expected = prober.measure(folder)
    rewrite_config(folder, **{setting: kernel})
    for measure in ways(prober):
        measured = measure(folder)
        assert measured.results == expected.results
        assert any(repr(kernel) in note for note in measured.notes)


@pytest.mark.parametrize(
    ("architecture", "settings", "taken"),
    [
        ("mpt", {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 8}, "8 tokens"),
        ("mpt", {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64}, None),
        ("gpt2", {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 8}, "8 tokens"),
    ],
)
def test_a_context_is_known_by_any_of_its_names(
    tmp_path: Path, architecture: str, settings: dict[str, Any], taken: str | None
) -> None:
    config = AutoConfig.for_model(architecture, vocab_size=VOCAB, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    prober = Prober(SPEC, TOKENS)
    if taken is None:
        assert prober.measure(tmp_path).results
    else:
        with pytest.raises(CheckpointError, match=f"it takes {taken}"):
            prober.measure(tmp_path)


def test_a_context_that_is_not_limited_is_no_limit() -> None:
    assert context_length({"max_position_embeddings": -1, "max_seq_len": 2048}) == 2048
    assert context_length({"max_position_embeddings": -1}) is None
    assert context_length({"max_position_embeddings": None, "n_positions": True}) is None


@pytest.mark.parametrize("name", ["text_config", "decoder", "generator"])
def test_the_settings_of_the_text_model_in_a_larger_one_are_found(folder: Path, name: str) -> None:
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "larger", name: text}))
    assert model_config(open_suite(str(folder.parent)))["vocab_size"] == VOCAB


def test_a_model_of_images_and_text_is_refused_or_measured_by_name(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**small, "vocab_size": VOCAB, "head_dim": 8, "num_key_value_heads": 2},
        vision_config={**small, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    for measure in ways(Prober(SPEC, TOKENS)):
        with pytest.raises(CheckpointError, match="Gemma3ForConditionalGeneration is not supported"):
            measure(tmp_path)
