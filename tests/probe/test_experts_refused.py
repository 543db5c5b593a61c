"""Mixtures of experts that would be measured wrong are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import VOCAB, tiny_model
from tests.probe.test_experts import SPEC, TOKENS, save


class Routed(torch.nn.Module):
    """Experts as a list of linear layers, each called with the tokens that chose it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(16, 4)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        chosen, out = self.gate(hidden).argmax(dim=-1), hidden.clone()
        for index, expert in enumerate(self.experts):
            out[chosen == index] += expert(hidden[chosen == index])
        return out


class OwnMixture(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(VOCAB, 16), torch.nn.Linear(16, VOCAB)
        self.layers = torch.nn.ModuleList([Routed(), Routed()])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: torch.Tensor = self.head(hidden)
        return logits


@pytest.mark.parametrize("seed", range(12))
def test_experts_of_a_models_own_code_are_refused_where_variants_would_mix(seed: int) -> None:
    """By chance the rows of two variants may be an even number, though one has more of them than the other."""
    torch.manual_seed(seed)
    spec = ProbeSpec(parse_variants(("int4",)), TokenShape(1, 1, 6), "x")
    with pytest.raises(CheckpointError, match="each variant may choose tokens by itself"):
        Prober(spec, TOKENS[:1, :1, :6]).measure_model(OwnMixture())


def test_experts_of_another_form_are_refused_by_name(tmp_path: Path) -> None:
    """Those of gpt-oss have biases, their matrices lie the other way, and they clip."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="weights outside linear layers"):
        Prober(SPEC, TOKENS).measure(tmp_path)


def test_an_activation_of_both_products_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experts of Inkling are of this form."""
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    class Both(torch.nn.Module):
        def forward(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
            return gate.tanh() * up

    def forward(self: OlmoeExperts, hidden: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        gate, up = (hidden @ self.gate_up_proj[0].T).chunk(2, dim=-1)
        return torch.as_tensor(self.act_fn(gate, up) @ self.down_proj[0].T)

    model = tiny_model("olmoe")
    monkeypatch.setattr(OlmoeExperts, "forward", forward)
    for layer in model.model.layers:
        layer.mlp.experts.act_fn = Both()
    with pytest.raises(CheckpointError, match="weights outside linear layers"):
        Prober(SPEC, TOKENS).measure_model(model)


class Gate(torch.nn.Module):
    """A router of two linear layers."""

    def __init__(self, gate: torch.nn.Module) -> None:
        super().__init__()
        self.gate, self.before = gate, torch.nn.Linear(32, 32)

    def forward(self, hidden: torch.Tensor) -> Any:
        return self.gate(self.before(hidden))


def test_a_router_of_another_form_is_refused_rather_than_quantized() -> None:
    model = tiny_model("olmoe")
    for layer in model.model.layers:
        layer.mlp.gate = Gate(layer.mlp.gate)
    with pytest.raises(CheckpointError, match="which part of OlmoeSparseMoeBlock is its router is not known"):
        Prober(SPEC, TOKENS).measure_model(model)


def test_a_shared_expert_with_a_row_for_each_expert_is_not_taken_for_a_router() -> None:
    model = tiny_model("qwen2_moe", num_experts=32, shared_expert_intermediate_size=32)
    with pytest.raises(CheckpointError, match="found gate, shared_expert"):
        Prober(SPEC, TOKENS).measure_model(model)


def test_experts_that_compute_something_else_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

    forward = OlmoeExperts.forward.__wrapped__

    def clipped(self: OlmoeExperts, hidden: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = forward(self, hidden, *given)
        return found.clamp(-100, 100)

    folder = save("olmoe", tmp_path)
    monkeypatch.setattr(OlmoeExperts, "forward", clipped)
    with pytest.raises(CheckpointError, match=r"weights outside linear layers \(model.layers.0.mlp"):
        Prober(SPEC, TOKENS).measure(folder)
