"""Random checkpoints of published shapes, to measure speed without a hub. Their losses mean nothing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pipeline.base.errors import unknown_name
from pipeline.base.files import make_folder
from pipeline.suites import Suite

VOCAB = 50304
"""Rows of the smallest Pythia's embedding and head, padding included."""
TOKENS = "tokens.npy"
"""Name of the token file beside the checkpoints: a ``tokens:`` corpus."""

SHAPES = {
    "pythia-14m": (128, 6, 4),
    "pythia-70m": (512, 6, 8),
    "pythia-160m": (768, 12, 12),
    "pythia-410m": (1024, 24, 16),
    "pythia-1.4b": (2048, 24, 16),
    "pythia-2.8b": (2560, 32, 32),
    "pythia-6.9b": (4096, 32, 32),
    "pythia-12b": (5120, 36, 40),
}
"""Shape -> hidden size, layers, heads. All are GPT-NeoX with an inner size of 4 x hidden, rotary embedding of a
quarter of each head, parallel residual, a context of 2048 and an untied head."""


_LARGER_VOCAB = {"pythia-6.9b": 50432, "pythia-12b": 50688}


def shape_config(shape: str) -> GPTNeoXConfig:
    """The configuration of ``shape``. Raises UsageError, which names the nearest, for an unknown one."""
    if shape not in SHAPES:
        raise unknown_name("shape", shape, SHAPES)
    hidden, layers, heads = SHAPES[shape]
    return GPTNeoXConfig(
        vocab_size=_LARGER_VOCAB.get(shape, VOCAB),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        architectures=["GPTNeoXForCausalLM"],
    )


def random_model(shape: str) -> GPTNeoXForCausalLM:
    """A float32 model of ``shape`` with transformers' own random weights; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPTNeoXForCausalLM(shape_config(shape))


def write_random_suite(folder: Path, shape: str, *, files: int, checkpoints: int, n_tokens: int) -> None:
    """Write a suite of ``checkpoints`` steps of ``shape`` and ``n_tokens`` random token ids into ``folder``.

    Weights are normal (matrices 0.02, gains 1 +- 0.02) and stored float16 in ``files`` distinct files that the
    checkpoints link to in turn (:func:`each_by_itself` has each of them measured).
    """
    config = shape_config(shape)
    with torch.device("meta"):
        model = GPTNeoXForCausalLM(config)
    shapes = {
        name.replace("lm_head", "embed_out"): parameter.shape for name, parameter in model.named_parameters()
    }
    make_folder(folder)
    names = [folder.absolute() / f"weights{index}.safetensors" for index in range(min(files, checkpoints))]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda index: _write_weights(names[index], shapes, index), range(len(names))))
    for index in range(checkpoints):
        step = folder / f"step{1000 * index}"
        make_folder(step)
        (step / "config.json").write_text(config.to_json_string(use_diff=False))
        (step / "model.safetensors").symlink_to(names[index % len(names)])
    np.save(folder / TOKENS, np.random.default_rng(0).integers(0, VOCAB, n_tokens))


def each_by_itself(suite: Suite) -> Suite:
    """``suite`` with distinct content ids, so that checkpoints of equal content are all measured."""
    return replace(suite, checkpoints=tuple(replace(each, duplicate_of=None) for each in suite.checkpoints))


def _write_weights(path: Path, shapes: dict[str, torch.Size], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        centre = float(name.endswith("norm.weight"))
        tensors[name] = (centre + 0.02 * torch.randn(shape, generator=generator)).half()
    save_file(tensors, path, metadata={"format": "pt"})
