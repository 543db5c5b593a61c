"""Whatever form a model's weights have in its files, the numbers are transformers' own, whole and layer by layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.probe.notes import OTHER_HEAD
from pipeline.probe.prober import NOTE
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import save_tiny_model

VOCAB, LENGTH = 64, 16
SPEC = ProbeSpec(parse_variants(("int4-g8-asym+head",)), TokenShape(2, 1, LENGTH), "x")
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 1, LENGTH))
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}


def save(folder: Path, architecture: str, **settings: Any) -> Path:
    """A model whose every parameter, biases too, is random."""
    config = AutoConfig.for_model(architecture, **{**SMALL, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        for buffer in dict(model.named_buffers()).values():
            if buffer.is_floating_point() and buffer.dim() < 2 and buffer.numel() == 1:
                buffer.mul_(1.25)
    model.save_pretrained(folder)
    return folder


def oracle(folder: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    losses = [model(input_ids=ids, labels=ids).loss.item() for ids in torch.from_numpy(TOKENS)]
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("apertus", {}),
        ("roberta", {"is_decoder": True, "pad_token_id": 1}),
        ("ctrl", {"n_embd": 16, "n_head": 2, "n_layer": 2, "dff": 32, "n_positions": 64}),
        ("openai-gpt", {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64}),
        ("gemma4_unified_text", {"head_dim": 8, "global_head_dim": 8, "pad_token_id": 0}),
    ],
    ids=[
        "numbers of no dimension",
        "a bias under two names",
        "a bias of the head",
        "layers that return lists",
        "persistent buffers",
    ],
)
def test_layer_by_layer_has_the_numbers_of_the_whole(
    tmp_path: Path, architecture: str, settings: dict[str, Any]
) -> None:
    folder = save(tmp_path, architecture, **settings)
    prober = Prober(SPEC, TOKENS)
    whole, layered = prober.measure(folder), prober.layer_by_layer.measure(folder)
    assert whole.results[0].nll_nats == pytest.approx(oracle(folder), abs=2e-6)
    assert layered.results == whole.results


def add_head(folder: Path, scale: float) -> None:
    """Adds a head to a tied checkpoint: its embedding ``scale`` times."""
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * scale
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("scale", [1.0, 0.5], ids=["the same head", "another head"])
def test_a_head_that_is_stored_beside_a_tied_embedding_is_used_and_noted(
    tmp_path: Path, scale: float
) -> None:
    folder = save(tmp_path, "qwen2", tie_word_embeddings=True)
    tied, prober = oracle(folder), Prober(SPEC, TOKENS)
    add_head(folder, scale)
    expected = oracle(folder)
    assert (abs(expected - tied) < 1e-9) == (scale == 1.0)
    whole, layered = prober.measure(folder), prober.layer_by_layer.measure(folder)
    assert whole.results[0].nll_nats == pytest.approx(expected, abs=2e-6)
    assert layered.results == whole.results
    notes = () if scale == 1.0 else (OTHER_HEAD,)
    assert (whole.notes, set(layered.notes)) == (notes, {NOTE, *notes})


def test_what_transformers_changes_while_it_loads_is_not_measured_as_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path, "llama")
    as_stored, tie = oracle(folder), transformers.LlamaForCausalLM.tie_weights

    def without_padding(self: Any, *args: Any, **kwargs: Any) -> None:
        tie(self, *args, **kwargs)
        if self.model.embed_tokens.weight.device.type != "meta":
            with torch.no_grad():
                self.model.embed_tokens.weight[int(TOKENS[0, 0, 3])].zero_()

    monkeypatch.setattr(transformers.LlamaForCausalLM, "tie_weights", without_padding)
    expected, prober = oracle(folder), Prober(SPEC, TOKENS)
    assert abs(expected - as_stored) > 1e-4
    assert prober.measure(folder).results[0].nll_nats == pytest.approx(expected, abs=2e-6)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight.* are not as they are stored.*--stream"):
        prober.layer_by_layer.measure(folder)


def test_an_embedding_whose_padding_is_emptied_while_it_loads_is_measured_as_a_whole(tmp_path: Path) -> None:
    latent = dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 8)
    padding = int(TOKENS[0, 0, 3])
    folder = save(tmp_path, "youtu", **latent, v_head_dim=8, head_dim=8, pad_token_id=padding)
    stored = safetensors.torch.load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert stored[padding].abs().min() > 0
    prober = Prober(SPEC, TOKENS)
    assert prober.measure(folder).results[0].nll_nats == pytest.approx(oracle(folder), abs=2e-6)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight.* are not as they are stored.*--stream"):
        prober.layer_by_layer.measure(folder)


def test_code_that_a_checkpoint_names_is_not_run_and_that_is_said(tmp_path: Path) -> None:
    folder, prober = save_tiny_model("llama", tmp_path, vocab_size=VOCAB), Prober(SPEC, TOKENS)
    expected = prober.measure(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    for measured in (prober.measure(folder), prober.layer_by_layer.measure(folder)):
        assert measured.results == expected.results
        assert any("modeling_mine.MineForCausalLM" in note for note in measured.notes)
    assert expected.notes == ()
