"""Which input channels AWQ may scale, by architecture: tensors whose scale can be divided out in the operation before.

AWQ multiplies the columns of the linear layers that read one tensor by a scale, and divides the tensor by it. The float
model stays the same where the division can be put into what makes the tensor: the weight (and bias) of a norm that
nothing else reads, rows of a linear layer before with only channel-wise products, or sums over tokens, between, or, as
in the paper's code, a division right after an activation function. Everything else keeps its scale of 1. The tests fold
random scales into a model of every architecture listed here and compare its logits.

Sources: Lin et al., "AWQ" (2023), arXiv 2306.00978, and the paper's code for the division after the activation. What
tools that guess take and this leaves out: GPT-NeoX's attention output, whose values come from rows of a fused layer
that are interleaved by head; OLMo-2's norms, which stand after their layers and feed the residual stream. OLMo's norms
have no weights, and its values may be clamped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.base.errors import UsageError


@dataclass(frozen=True)
class ScaledInput:
    """A tensor that linear layers of a decoder layer read, and what it may be divided in."""

    readers: tuple[str, ...]
    """Names of those linear layers within a decoder layer: all that read the tensor."""
    norm: str | None = None
    """The norm that makes the tensor."""
    linear: str | None = None
    """The linear layer whose rows the tensor's channels are, up to channel-wise products or averages over tokens."""
    last_rows: bool = False
    """Whether they are only as many last rows of ``linear`` as the tensor has channels."""
    activation: str | None = None
    """The activation function after which the tensor is to be divided."""
    equal_heads: bool = False
    """Whether that holds only where every query head has its own values."""


_GATED = ScaledInput(("mlp.down_proj",), linear="mlp.up_proj")
_VALUES = ScaledInput(("self_attn.o_proj",), linear="self_attn.v_proj", equal_heads=True)
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = (
    ScaledInput(_QKV, norm="input_layernorm"),
    _VALUES,
    ScaledInput(("mlp.gate_proj", "mlp.up_proj"), norm="post_attention_layernorm"),
    _GATED,
)
ARCHITECTURES: Mapping[str, tuple[ScaledInput, ...]] = {
    "apertus": (
        ScaledInput(_QKV, norm="attention_layernorm"),
        _VALUES,
        ScaledInput(("mlp.up_proj",), norm="feedforward_layernorm"),
        ScaledInput(("mlp.down_proj",), activation="mlp.act_fn"),
    ),
    "gpt2": (
        ScaledInput(("attn.c_attn",), norm="ln_1"),
        ScaledInput(("attn.c_proj",), linear="attn.c_attn", last_rows=True),
        ScaledInput(("mlp.c_fc",), norm="ln_2"),
        ScaledInput(("mlp.c_proj",), activation="mlp.act"),
    ),
    "gpt_neox": (
        ScaledInput(("attention.query_key_value",), norm="input_layernorm"),
        ScaledInput(("mlp.dense_h_to_4h",), norm="post_attention_layernorm"),
        ScaledInput(("mlp.dense_4h_to_h",), activation="mlp.act"),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo": (_GATED,),
    "olmo2": (_VALUES, _GATED),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
}
"""By transformers' model type."""

_MAKE_SCORES = ("q_proj", "k_proj", "query_key_value", "c_attn")


def require_known(config: Mapping[str, Any], quantizer: object) -> None:
    """``UsageError`` for models of ``config`` (config.json) whose scales are not known to keep the float function."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        models = f"{kind} models" if kind else "models of unknown type"
        raise UsageError(
            f"{quantizer}: AWQ does not know which inputs of {models} it may scale without changing its function; "
            f"wanted one of {', '.join(ARCHITECTURES)}, or a variant without @awq"
        )


def may_scale(name: str, config: Mapping[str, Any], *, activations: bool = True) -> bool:
    """Whether the input of the linear layer called ``name`` (dotted path in a model of ``config``) may be scaled.

    ``activations``: also where it has to be divided after an activation function.
    """
    for each in ARCHITECTURES[config["model_type"]]:
        if any(name.endswith(f".{reader}") for reader in each.readers):
            return (activations or each.activation is None) and (
                not each.equal_heads or _heads_are_equal(config)
            )
    return False


def may_clip(name: str) -> bool:
    """Whether the weights of the layer called ``name`` may be clipped: not where they make queries or keys, whose
    products the clip search does not see.
    """
    return name.rpartition(".")[2] not in _MAKE_SCORES


def _heads_are_equal(config: Mapping[str, Any]) -> bool:
    heads = config["num_attention_heads"]
    return (config.get("num_key_value_heads") or heads) == heads
