"""Notes for readers on how a checkpoint's files were interpreted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models.loading import PLAIN_ATTENTION

OTHER_HEAD = (
    "config.json ties the output head to the embedding, but the files hold another head: measured with the one they "
    "hold, as transformers does"
)

OTHER_ATTENTION = "config.json asks for attention by {!r}: measured with transformers' and torch's own"


def config_notes(folder: Path) -> tuple[str, ...]:
    """Notes on the config.json in ``folder``."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    asked = config.get("attn_implementation") or config.get("_attn_implementation")
    kernel = () if asked in (None, *PLAIN_ATTENTION) else (OTHER_ATTENTION.format(asked),)
    if not config.get("auto_map"):
        return kernel
    named = config["auto_map"].values() if isinstance(config["auto_map"], dict) else ()
    code = ", ".join(sorted({str(value) for value in named})) or "auto_map"
    return (
        *kernel,
        f"config.json names custom code ({code}), which is never run: measured with transformers' "
        f"{config.get('model_type')!r} model",
    )


def tied_notes(model: Any, head: Tensor | None = None) -> tuple[str, ...]:
    """Notes on tied weights of a filled ``model``; ``head``: the weight of its output head if the module does not
    hold it.
    """
    if not hasattr(model, "tie_weights"):  # not a model of transformers
        return ()
    if not model.config.get_text_config(decoder=True).tie_word_embeddings or not model._tied_weights_keys:
        return ()
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight if head is None else head
    tied = (
        head is embedding or head.shape != embedding.shape or torch.equal(head.to(embedding.dtype), embedding)
    )
    return () if tied else (OTHER_HEAD,)
