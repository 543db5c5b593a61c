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
    """Compiles the blocks of ``model`` and the norms beside them in place; returns the compiled :func:`token_loss`."""
    options: dict[str, Any] = {"dynamic": False, "backend": backend}
    for module in _compilable(model):
        module.compile(**options)
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


def _compilable(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, and what normalises before and after them (vectors are its only parameters)."""
    parents = [
        (parent, child)
        for parent in model.modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList)
    ]
    parent, blocks = max(parents, key=lambda pair: sum(each.numel() for each in pair[1].parameters()))
    dimensions = {child: {each.dim() for each in child.parameters()} for child in parent.children()}
    return [*blocks, *(child for child, found in dimensions.items() if found == {1})]
