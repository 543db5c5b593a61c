"""Compiled training: the transformer blocks one by one and the loss, so that a GPU is not kept waiting.

All blocks run the same code, so one compilation serves them all: seconds, where compiling the whole model takes
minutes. The elementwise work of a block (norms, rotations, residuals, autocast's casts) becomes a few kernels, and
the loss reads the bfloat16 logits once instead of writing them out in float32 first. A compiled model's copies are
plain, so probes are not affected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]

MASKLESS = "sdpa_without_mask"
"""Name under which transformers knows the attention of training: SDPA's own causal mask, none built beside it."""


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats of logits (sequences, tokens, vocabulary) against targets (sequences, tokens)."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def compile_training(model: nn.Module, backend: str = "inductor") -> Loss:
    """Compiles the blocks of ``model`` in place and returns the compiled :func:`token_loss`."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = max(lists, key=lambda each: sum(parameter.numel() for parameter in each.parameters()))
    options: dict[str, Any] = {"dynamic": False, "backend": backend}
    for block in blocks:
        block.compile(**options)
    loss: Loss = torch.compile(token_loss, **options)
    return loss


def drop_mask(model: nn.Module) -> bool:
    """Makes ``model`` attend causally without building a mask; False, and nothing changed, where it needs one.

    Training sequences are never padded or packed, so SDPA's ``is_causal`` is the whole mask, unless attention is
    limited to a window. transformers finds that out by reading a tensor back from the device in every forward, which
    waits for the GPU and which a CUDA graph cannot hold.
    """
    config: Any = getattr(model, "config", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = getattr(config, "sliding_window", None) is not None or not kinds <= {"full_attention"}
    if windowed or getattr(config, "_attn_implementation", None) != "sdpa":
        return False
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(MASKLESS, sdpa_attention_forward)
    AttentionMaskInterface.register(MASKLESS, lambda *_, **__: None)
    config._attn_implementation = MASKLESS
    return True
