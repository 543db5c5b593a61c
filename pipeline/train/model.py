"""Build the model of a recipe, and save it as an ordinary Hugging Face folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.train.recipes import Recipe

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM, PreTrainedModel

ROTARY_FRACTION = 0.25
STORED = torch.float16
"""Dtype of the weights of a saved checkpoint, as Pythia's are stored."""


def build_model(recipe: Recipe) -> GPTNeoXForCausalLM:
    """A float32 GPT-NeoX on the CPU with the recipe's random weights; the global generator stays unchanged.

    Layout of Pythia: parallel residual, a quarter of each head rotated, untied head, no dropout.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.width * recipe.ff_multiple,
        max_position_embeddings=recipe.seq_len,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": ROTARY_FRACTION,
        },
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return GPTNeoXForCausalLM(config)


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """config.json and model.safetensors with weights in ``STORED``. The model is not changed."""
    half = copy.deepcopy(model).to(device="cpu", dtype=STORED)
    from safetensors import SafetensorError

    with _quiet():
        try:
            half.save_pretrained(folder)
        except SafetensorError as error:  # a full disk, for example; callers handle OSError
            raise OSError(str(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: no progress bar per checkpoint. The setting is global, so it is restored."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
