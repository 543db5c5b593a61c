"""Every scale that AWQ may choose, folded into a random model: its logits stay the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from pipeline.models.linear_layers import blocks, linear_sites
from pipeline.quantize.awq_channels import ARCHITECTURES, ScaledInput, may_scale
from tests import models

_OWN: dict[str, dict[str, Any]] = {
    "gpt_neox": {"attention_bias": True},
    "gpt_neox, one after the other": {"use_parallel_residual": False},
    "llama, shared heads": {"attention_bias": True, "mlp_bias": True},
    "llama": {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    "qwen2": {"num_key_value_heads": 4},
    "qwen3": {"num_key_value_heads": 4},
    "olmo2": {"num_key_value_heads": 4, "attention_bias": True},
    "olmo": {"num_key_value_heads": 4, "clip_qkv": 0.5},
    "mistral": {"num_key_value_heads": 4},
    "smollm3": {"num_key_value_heads": 4},
    "apertus": {"num_key_value_heads": 4},
    "gpt2": {},
}


class Divided(nn.Module):
    """An activation function and a division."""

    def __init__(self, function: nn.Module, scale: torch.Tensor) -> None:
        super().__init__()
        self.function, self.scale = function, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) / self.scale


def random_model(name: str) -> Any:
    """float64, with norms and biases that are not trivial."""
    kind = name.partition(",")[0]
    settings = models.ARCHITECTURES.get(kind, models.ARCHITECTURES["llama"])
    config = AutoConfig.for_model(kind, **{**settings, **_OWN[name]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def fold(layer: nn.Module, scaled: ScaledInput) -> None:
    """Scales the columns of the readers by a random scale, and divides what they read by it."""
    readers = [layer.get_submodule(name) for name in scaled.readers]
    first: Any = readers[0].weight
    width = first.shape[0] if isinstance(readers[0], Conv1D) else first.shape[1]
    scale = torch.rand(width, dtype=torch.float64) * 3 + 0.2
    for reader in readers:
        weight: Any = reader.weight
        weight.mul_(scale[:, None] if isinstance(reader, Conv1D) else scale)
    if scaled.activation is not None:
        parent, _, leaf = scaled.activation.rpartition(".")
        setattr(layer.get_submodule(parent), leaf, Divided(layer.get_submodule(scaled.activation), scale))
        return
    before: Any = layer.get_submodule(scaled.norm or scaled.linear or "")
    if scaled.last_rows:
        scale = torch.cat([scale.new_ones(before.bias.shape[0] - width), scale])
    weight = before.weight.T if isinstance(before, Conv1D) else before.weight
    weight.div_(scale[:, None] if weight.dim() == 2 else scale)
    if getattr(before, "bias", None) is not None:
        before.bias.div_(scale)


@pytest.mark.parametrize("name", _OWN)
def test_scales_that_are_folded_into_a_model_do_not_change_its_function(name):
    model, kind = random_model(name), name.partition(",")[0]
    config, ids = model.config.to_dict(), torch.randint(0, models.VOCAB, (2, 16))
    with torch.no_grad():
        before = model(input_ids=ids).logits
    prefix, layers = blocks(model)
    folded: set[str] = set()
    for number, layer in enumerate(layers):
        for scaled in ARCHITECTURES[kind]:
            readers = {f"{prefix}.{number}.{reader}" for reader in scaled.readers}
            if all(may_scale(reader, config) for reader in readers):
                fold(layer, scaled)
                folded |= readers
    with torch.no_grad():
        after = model(input_ids=ids).logits
    assert (after - before).abs().max() <= 1e-10 * before.abs().max()
    assert before.std() > 0.1
    sites = {site.name for site in linear_sites(model)}
    assert folded == {site for site in sites if may_scale(site, config)}
    left = {site.rpartition(".")[2] for site in sites - folded} - {"lm_head"}
    assert left == {
        "gpt_neox": {"dense"},
        "gpt_neox, one after the other": {"dense"},
        "llama, shared heads": {"o_proj"},
        "olmo": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"},
        "olmo2": {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"},
    }.get(name, set())


def test_every_architecture_that_is_listed_is_proved_here():
    assert {name.partition(",")[0] for name in _OWN} == set(ARCHITECTURES)


def test_layers_after_an_activation_function_can_be_left_out():
    config = {"model_type": "gpt_neox", "num_attention_heads": 4}
    name = "gpt_neox.layers.0.mlp.dense_4h_to_h"
    assert may_scale(name, config)
    assert not may_scale(name, config, activations=False)
    assert may_scale("gpt_neox.layers.0.mlp.dense_h_to_4h", config, activations=False)
