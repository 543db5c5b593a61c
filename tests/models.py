"""Tiny random models of several architectures, saved as ordinary checkpoint folders, for any test."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 320
"""Ids of every model here."""

_COMMON: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_LLAMA: dict[str, Any] = {
    **_COMMON,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        **_COMMON,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "llama": {**_LLAMA, "tie_word_embeddings": False},
    "gpt2": {**_COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "qwen3": {**_LLAMA, "tie_word_embeddings": True, "head_dim": 8},
    "olmo2": {**_LLAMA, "tie_word_embeddings": False},
}
"""Settings by transformers model type; GPT-2 and the Qwens have tied heads, GPT-2 has Conv1D layers."""
_EXPERTS = {**_LLAMA, "tie_word_embeddings": False, "num_experts": 6, "num_experts_per_tok": 2}
MIXTURES: dict[str, dict[str, Any]] = {
    "olmoe": _EXPERTS,
    "mixtral": {**_EXPERTS, "num_local_experts": 6},
    "qwen2_moe": {**_EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    "qwen3_moe": {**_EXPERTS, "moe_intermediate_size": 24, "head_dim": 8},
    "deepseek_v3": {
        **_EXPERTS, "n_routed_experts": 6, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "n_group": 2,
        "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
        "v_head_dim": 8, "num_key_value_heads": 4, "n_shared_experts": 1,
    },
}  # fmt: skip
"""Settings of mixtures of experts by transformers model type."""


def tiny_model(architecture: str, seed: int = 0, **settings: Any) -> Any:
    """A random float32 model, the same for the same seed; ``settings`` override its config."""
    config = AutoConfig.for_model(architecture, **{**(ARCHITECTURES | MIXTURES)[architecture], **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_tiny_model(
    architecture: str, folder: Path, seed: int = 0, *, dtype: torch.dtype = torch.float16, **settings: Any
) -> Path:
    """Saves :func:`tiny_model` to ``folder`` (config.json, model.safetensors) and returns the folder."""
    tiny_model(architecture, seed, **settings).to(dtype).save_pretrained(folder)
    return folder


def save_tiny_suite(architecture: str, folder: Path, names: list[str], **settings: Any) -> Path:
    """One checkpoint per name under ``folder``; the n-th has seed n. Returns ``folder``."""
    for seed, name in enumerate(names):
        save_tiny_model(architecture, folder / name, seed, **settings)
    return folder


def write_text_corpus(folder: Path) -> str:
    """Writes 200 documents of made-up words (60 kB) and returns them as a ``file:`` corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(300)]
    for number in range(200):
        (folder / f"{number:03d}.txt").write_text(" ".join(draw.choices(words, k=60)) + ".\n")
    return f"file:{folder}/*.txt"
