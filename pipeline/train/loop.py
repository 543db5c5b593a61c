"""One optimizer step after another: what pretraining and forking share. No files, no progress, no
checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from pipeline.train.schedules import Schedule


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW as Pythia uses it."""

    weight_decay: float = 0.1
    """Decoupled, on parameters of at least two dimensions only (not on biases and norms)."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    """Largest global gradient norm."""


class Trainer:
    """A model, its optimizer and the number of updates made.

    float32 on a CPU, bfloat16 autocast on a GPU. With batches that depend on the step only, the state dict is
    all that a run needs to continue exactly (bit for bit on a CPU).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batches: Callable[[int], Tensor],
        schedule: Schedule,
        settings: OptimizerSettings,
        device: torch.device,
    ) -> None:
        """``batches(step)``: token ids (sequences, seq_len + 1), int64, on ``device``."""
        self.model = model.to(device).train()
        self.batches, self.schedule, self.settings, self.device = batches, schedule, settings, device
        self.step = 0
        self.optimizer = make_optimizer(model, settings)

    def advance(self) -> Tensor:
        """Makes one update; returns its training loss in nats per token, a detached scalar on the device."""
        tokens = self.batches(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.step)
        with self._autocast():
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments and step, for ``torch.save`` (loads with ``weights_only=True``)."""
        return {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self.device.type == "cuda" else nullcontext()


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over all parameters, decaying the matrices only. The learning rate is set at every step."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=settings.eps, fused=True)


def choose_device(name: str) -> torch.device:
    """The torch device ``name``; ``auto`` is the GPU if there is one. ``UsageError`` if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}: wanted auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs; use cpu or auto")
    return device
