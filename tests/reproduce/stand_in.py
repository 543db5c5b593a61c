"""A repository laid out like EleutherAI/pythia-160m on the stand-in hub: its names and files, with random weights.

Kept: the 154 branch names and ``main``; float16 safetensors with ``embed_out.weight`` and the masks and rotary
frequencies that the published files still hold; a pickle's name beside them; ``config.json`` with the
published settings; step1 equal to step0. Scaled down, except for the steps that are asked for in full: hidden size,
layers, heads, inner size, vocabulary and context. Left out: the tokenizer, so that text has to be given as tokens, and
the pickle's contents, since safetensors are preferred.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import numpy as np
from safetensors.numpy import save

from tests.reproduce.paper import SHAPE, STEPS
from tests.suites.hub.server import Hub

REPOSITORY = "EleutherAI/pythia-160m"
SCALED = (64, 3, 4, 256, 512)
"""A twelfth of the hidden size, a quarter of the layers; heads of 16, a quarter of each rotated."""
CONTEXT, FULL_CONTEXT = 128, 2048


def pythia_hub(full: Collection[int] = ()) -> Hub:
    """The repository with all its branches; ``main`` is the last of them.

    ``full``: steps that have Pythia-160m's own shape.
    """
    hub = Hub(REPOSITORY)
    for step in STEPS:
        hub.push(
            f"step{step}",
            revision_files(step, *((SHAPE, FULL_CONTEXT) if step in full else (SCALED, CONTEXT))),
        )
    hub.push("main", {"README.md": b"-", **hub.commits[hub.branches[f"step{STEPS[-1]}"]]})
    return hub


def revision_files(step: int, shape: Sequence[int] = SCALED, context: int = CONTEXT) -> dict[str, bytes]:
    """The files of one branch: weights whose scale grows with the step."""
    return {
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "config.json": json.dumps(_config(shape, context), indent=2).encode(),
        "model.safetensors": save(_tensors(0 if step == 1 else step, shape, context), {"format": "pt"}),
        "pytorch_model.bin": f"a pickle of step {step}, which nobody reads".encode() * 50,
    }


def _config(shape: Sequence[int], context: int) -> dict[str, object]:
    hidden, layers, heads, inner, vocabulary = shape
    return {
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
        "hidden_size": hidden, "initializer_range": 0.02, "intermediate_size": inner, "layer_norm_eps": 1e-05,
        "max_position_embeddings": context, "model_type": "gpt_neox", "num_attention_heads": heads,
        "num_hidden_layers": layers, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
        "use_parallel_residual": True, "vocab_size": vocabulary,
    }  # fmt: skip


def _tensors(step: int, shape: Sequence[int], context: int) -> dict[str, np.ndarray]:
    hidden, layers, heads, inner, vocabulary = shape
    draw = np.random.default_rng(step)
    scale = 0.02 * (1 + 2 * step / STEPS[-1])

    def matrix(*size: int) -> np.ndarray:
        return (scale * draw.standard_normal(size, dtype=np.float32)).astype(np.float16)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + matrix(hidden), f"{name}.bias": matrix(hidden)}

    def linear(name: str, out: int, into: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": matrix(out, into), f"{name}.bias": matrix(out)}

    rotated = hidden // heads // 4
    found = {
        "gpt_neox.embed_in.weight": matrix(vocabulary, hidden),
        "embed_out.weight": matrix(vocabulary, hidden),
    }
    for index in range(layers):
        layer = f"gpt_neox.layers.{index}"
        found |= norm(f"{layer}.input_layernorm") | norm(f"{layer}.post_attention_layernorm")
        found |= linear(f"{layer}.attention.query_key_value", 3 * hidden, hidden)
        found |= linear(f"{layer}.attention.dense", hidden, hidden)
        found |= linear(f"{layer}.mlp.dense_h_to_4h", inner, hidden)
        found |= linear(f"{layer}.mlp.dense_4h_to_h", hidden, inner)
        found[f"{layer}.attention.bias"] = np.tril(np.ones((1, 1, context, context), dtype=bool))
        found[f"{layer}.attention.masked_bias"] = np.array(-1e9, dtype=np.float32)
        found[f"{layer}.attention.rotary_emb.inv_freq"] = (
            10000.0 ** -(np.arange(0, rotated, 2, dtype=np.float32) / rotated)
        ).astype(np.float16)
    return found | norm("gpt_neox.final_layer_norm")
