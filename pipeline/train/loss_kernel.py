"""Cross entropy and its gradient in one kernel: the logits are read, and their gradient is written in their place.

The logits of a batch are the largest tensor of a small model's training (1 GiB of bfloat16 for 65,536 tokens and 8,192
ids), so moving them dominates a step. Computed separately, loss and gradient read them three times and write a
second tensor of the same size; here a row is read from memory once (the second pass hits the cache) and
overwritten. Formula: loss = log sum exp(z) - z_target, gradient = (softmax(z) - onehot(target)) / tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PER_PASS = 8192


@triton.jit
def loss_and_gradient_kernel(
    logits_ptr,  # (tokens, vocabulary), contiguous; the gradient when the kernel ends
    target_ptr,  # int64 (tokens)
    loss_ptr,  # float32 (tokens)
    vocabulary,
    share,  # 1 / tokens: the loss is a mean
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    row = logits_ptr + token * vocabulary
    target = tl.load(target_ptr + token)
    top = float("-inf")
    total = 0.0
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(row + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(z, axis=0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(z - new_top), axis=0)
        top = new_top
    log_total = tl.log(total) + top
    tl.store(loss_ptr + token, log_total - tl.load(row + target).to(tl.float32))
    tl.debug_barrier()  # the target's logit is read before it is overwritten
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < vocabulary
        z = tl.load(row + column, mask=inside, other=float("-inf")).to(tl.float32)
        slope = tl.where(column == target, tl.exp(z - log_total) - 1.0, tl.exp(z - log_total)) * share
        tl.store(row + column, slope.to(logits_ptr.dtype.element_ty), mask=inside)


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy in nats of contiguous ``logits`` (..., vocabulary) against int64 ``targets`` (...), and the
    gradient with respect to the logits, in their dtype and their memory.
    """  # fmt: skip
    gradient = logits.detach()
    # Marks the logits as changed, so that autograd reports a backward pass that needs them.
    torch.autograd.graph.increment_version([gradient])
    if not gradient.is_contiguous():
        raise ValueError(f"logits of strides {logits.stride()}: wanted contiguous ones")
    vocabulary, tokens = logits.shape[-1], targets.numel()
    losses = torch.empty(tokens, dtype=torch.float32, device=logits.device)
    block = min(MOST_PER_PASS, triton.next_power_of_2(vocabulary))
    loss_and_gradient_kernel[(tokens,)](
        gradient, targets.contiguous(), losses, vocabulary, 1 / tokens, BLOCK=block, num_warps=8
    )
    return losses.mean(), gradient
