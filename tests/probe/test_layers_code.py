"""Models whose code does what a measurement cannot follow, whole and layer by layer."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

pytest.importorskip("triton")

from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from pipeline.base.errors import CheckpointError
from pipeline.models.placeholders import WeightIndex
from pipeline.probe.notes import OTHER_HEAD
from pipeline.probe.prober import NOTE
from tests.probe.layered import (
    ARITHMETICS,
    SMALL,
    TOKENS,
    WAYS,
    assert_near,
    gpu,
    on_cpu,
    prober,
    save,
    spec,
)


@ARITHMETICS
@WAYS
def test_integers_are_not_taken_as_the_values_of_weights(tmp_path, way, arithmetic) -> None:
    save(tmp_path, "llama")
    name = "model.layers.1.mlp.up_proj.weight"
    file = WeightIndex.of(tmp_path).file_of[name]
    tensors = safetensors.torch.load_file(file)
    tensors[name] = torch.ones_like(tensors[name], dtype=torch.int8)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"1 weight is stored as int8: {name}"):
        getattr(prober(spec(arithmetic)), way)(tmp_path, None)


@ARITHMETICS
@WAYS
def test_a_model_that_reads_later_tokens_is_refused(tmp_path, monkeypatch, way, arithmetic) -> None:
    folder = save(tmp_path, "llama")
    attend = modeling_llama.LlamaAttention.forward

    def both_ways(self, *args, attention_mask=None, **kwargs):
        self.is_causal = False
        return attend(self, *args, attention_mask=None, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", both_ways)
    with pytest.raises(CheckpointError, match="reads later tokens"):
        getattr(prober(spec(arithmetic)), way)(folder, None)


@WAYS
@ARITHMETICS
def test_a_head_that_is_stored_beside_a_tied_embedding_is_used_and_noted(tmp_path, way, arithmetic) -> None:
    save(tmp_path, "qwen2", tie_word_embeddings=True, num_hidden_layers=1)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    file = tmp_path / content["weight_map"]["model.embed_tokens.weight"]
    tensors = safetensors.torch.load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    content["weight_map"]["lm_head.weight"] = file.name
    index.write_text(json.dumps(content))
    probe = spec(arithmetic)
    found = getattr(prober(probe), way)(tmp_path)
    exact = on_cpu(probe, tmp_path)
    assert exact.notes == (OTHER_HEAD,)
    assert found.notes == ((OTHER_HEAD,) if way == "measure" else (OTHER_HEAD, NOTE))
    assert_near(found, exact)


@ARITHMETICS
def test_what_transformers_changes_while_it_loads_is_seen(tmp_path, monkeypatch, arithmetic) -> None:
    folder, tie = save(tmp_path, "llama", num_hidden_layers=1), LlamaForCausalLM.tie_weights

    def without_padding(self, *args, **kwargs) -> None:
        tie(self, *args, **kwargs)
        if self.model.embed_tokens.weight.device.type != "meta":
            self.model.embed_tokens.weight.data[int(TOKENS[0, 0, 1])].zero_()

    probe = spec(arithmetic)
    as_stored = on_cpu(probe, folder)
    monkeypatch.setattr(LlamaForCausalLM, "tie_weights", without_padding)
    found, exact = prober(probe).measure(folder), on_cpu(probe, folder)
    assert abs(exact.results[0].nll_nats - as_stored.results[0].nll_nats) > 1e-4
    assert_near(found, exact)
    assert any("converted by transformers" in note for note in found.notes)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight are not as they are stored"):
        prober(probe).measure_layers(folder, None)


@gpu
@WAYS
@pytest.mark.parametrize("architecture", ["apertus", "gemma4_unified_text"])
def test_numbers_of_no_dimension_and_buffers_are_filled(tmp_path, way, architecture) -> None:
    settings = {**SMALL, "pad_token_id": 0, "head_dim": 8, "global_head_dim": 8}
    config = AutoConfig.for_model(architecture, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for tensor in model.state_dict().values():
            tensor.add_(0.1 * torch.randn_like(tensor))
    model.half().save_pretrained(tmp_path, max_shard_size="1KB")
    probe = spec("split")
    found = getattr(prober(probe), way)(tmp_path)
    assert_near(found, on_cpu(probe, tmp_path))


class Rounded(torch.nn.Linear):
    """Rounds its input, as layers do that quantize their activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x * 16).round() / 16)


@ARITHMETICS
@WAYS
def test_a_linear_layer_with_a_forward_of_its_own_is_refused(tmp_path, monkeypatch, way, arithmetic) -> None:
    folder, make = save(tmp_path, "llama"), modeling_llama.LlamaMLP.__init__

    def with_rounded(self, config) -> None:
        make(self, config)
        self.up_proj = Rounded(config.hidden_size, config.intermediate_size, bias=False)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "__init__", with_rounded)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj \(Rounded\), .* computes more"):
        getattr(prober(spec(arithmetic)), way)(folder, None)


@ARITHMETICS
@WAYS
def test_code_that_computes_with_a_weight_by_itself_is_refused(
    tmp_path, monkeypatch, way, arithmetic
) -> None:
    folder, forward = save(tmp_path, "llama"), modeling_llama.LlamaMLP.forward

    def computes(self, x):
        assert x.dtype == self.up_proj.weight.dtype
        return forward(self, x @ self.up_proj.weight.T)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", computes)
    with pytest.raises(CheckpointError, match="reads the weights of a linear layer by itself"):
        getattr(prober(spec(arithmetic)), way)(folder, None)


@gpu
@ARITHMETICS
@WAYS
def test_a_model_that_draws_random_numbers_is_refused(tmp_path, monkeypatch, way, arithmetic) -> None:
    folder, forward = save(tmp_path, "llama"), modeling_llama.LlamaMLP.forward
    monkeypatch.setattr(
        modeling_llama.LlamaMLP,
        "forward",
        lambda self, x: forward(self, x * (1 + 0.1 * torch.rand(1, device=x.device))),
    )
    with pytest.raises(CheckpointError, match="draws random numbers"):
        getattr(prober(spec(arithmetic)), way)(folder, None)
