"""The training loop that pretraining and forking share. No files, no progress, no checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import UsageError
from pipeline.train.capture import CapturedStep
from pipeline.train.compiling import Loss, compile_blocks, drop_mask, fused_loss, token_loss
from pipeline.train.optimizers import SAM_RADIUS, make_muon, make_optimizer, uphill
from pipeline.train.settings import OptimizerSettings


class Trainer:
    """A model, its optimizer and the number of updates made.

    float32 on a CPU, bfloat16 autocast on a GPU, unless ``precision`` says otherwise. With batches that depend on
    the step only, a run continues exactly from the state dict (bit for bit on a CPU).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batches: Callable[[int], Tensor],
        schedule: Callable[[int], float],
        settings: OptimizerSettings,
        device: torch.device,
        optimizer: str = "adamw",
        precision: str | None = None,
        compiled: bool = False,
    ) -> None:
        """``batches(step)``: token ids (sequences, seq_len + 1), int64, on ``device``.

        optimizer: ``adamw``, ``sam`` (AdamW at the gradient of the point uphill) or ``muon``. precision: ``fp32``
        or ``bf16`` (autocast); None = bf16 on a GPU, fp32 elsewhere. compiled: see ``pipeline.train.compiling``; on
        a GPU the whole step is also captured (``pipeline.train.capture``), unless the optimizer is Muon, whose
        rate is a Python number, or the model drops activations or attends in windows.
        """
        self.model = model.to(device).train()
        self.batches, self.schedule, self.settings, self.device = batches, schedule, settings, device
        self.step = 0
        self.optimizer: Any = (make_muon if optimizer == "muon" else make_optimizer)(model, settings)
        self._radius = SAM_RADIUS if optimizer == "sam" else None
        self._bf16 = precision == "bf16" or (precision is None and device.type == "cuda")
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        maskless = compiled and drop_mask(self.model)
        self._fused_loss: Loss | None = None
        if compiled:
            compile_blocks(self.model)
            self._fused_loss = fused_loss(self.model, device)
        self._captured: CapturedStep | None = None
        if maskless and device.type == "cuda" and optimizer != "muon" and not drops(model):
            for group in self.optimizer.param_groups:
                group |= {"capturable": True, "lr": torch.zeros((), device=device)}
            self._captured = CapturedStep(self._update, self.optimizer.zero_grad)

    def advance(self) -> Tensor:
        """Make one update; return its training loss in nats per token, a detached scalar on the device."""
        tokens = self.batches(self.step)
        rate = self.schedule(self.step)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        loss = (self._captured or self._update)(tokens)
        self.step += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Weights, moments and step, for ``torch.save`` (loads with ``weights_only=True``)."""
        return {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self._captured is not None:
            self._captured.forget()

    def _update(self, tokens: Tensor) -> Tensor:
        """Make one update at the current rate; return the loss before it, detached."""
        loss = self._backward(tokens)
        if self._radius is not None:
            with uphill(self._parameters, self._radius):
                self._backward(tokens)
        nn.utils.clip_grad_norm_(self._parameters, self.settings.clip_norm)
        self.optimizer.step()
        return loss

    def _backward(self, tokens: Tensor) -> Tensor:
        """Compute gradients for ``tokens`` at the current weights; return the loss, detached."""
        with self._autocast():
            logits = self.model(input_ids=tokens[:, :-1], use_cache=False).logits
        self.optimizer.zero_grad(set_to_none=True)
        if self._fused_loss is not None:
            loss, gradient = self._fused_loss(logits, tokens[:, 1:])
            logits.backward(gradient)
            return loss
        loss = token_loss(logits, tokens[:, 1:])
        loss.backward()
        return loss.detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self._bf16 else nullcontext()


def drops(model: nn.Module) -> bool:
    return any(isinstance(each, nn.Dropout) and each.p > 0 for each in model.modules())


def choose_device(name: str) -> torch.device:
    """The torch device ``name``; ``auto`` is the GPU if there is one. Raises UsageError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}: wanted auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r}: torch sees {torch.cuda.device_count()} GPUs; use cpu or auto")
    return device
