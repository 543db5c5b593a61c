"""Compiled training: the transformer blocks one by one, and the loss.

All blocks run the same code, so one compilation, of seconds, serves them all; compiling the whole model takes
minutes. The elementwise work of a block (norms, rotations, residuals, autocast's casts) becomes a few kernels. A
compiled model's copies are plain, so probes are not affected.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.linear_layers import blocks

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Function from logits and targets to the loss and its gradient."""

MASKLESS = "sdpa_without_mask"
"""Name of the training attention in transformers: SDPA's own causal mask, without building one."""


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats of logits (sequences, tokens, vocabulary) against targets (sequences, tokens)."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the blocks of ``model``, and the norms beside them, in place."""
    options: dict[str, Any] = {"dynamic": False, "backend": backend}
    for module in _compilable(model):
        module.compile(**options)


def fused_loss(model: nn.Module, device: torch.device) -> Loss | None:
    """The loss with its gradient in one kernel, which overwrites the logits; None without Triton or a GPU, or if
    ``model`` applies a function to its logits whose gradient needs them.
    """
    bent = getattr(getattr(model, "config", None), "final_logit_softcapping", None) is not None
    if bent or device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from pipeline.train.loss_kernel import loss_and_gradient

    return loss_and_gradient


def drop_mask(model: nn.Module) -> bool:
    """Make ``model`` attend causally without building a mask; return False, without a change, if it needs a mask.

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
    path, layers = blocks(model)
    parent = model.get_submodule(path.rpartition(".")[0])
    dimensions = {child: {each.dim() for each in child.parameters()} for child in parent.children()}
    return [*layers, *(child for child, found in dimensions.items() if found == {1})]
