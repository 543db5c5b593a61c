"""The naive training loop: model, loss, backward, clip, AdamW, scheduler, and the loss read at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.train.settings import OptimizerSettings


class NaiveTraining:
    """A transformers model and its optimizer."""

    def __init__(
        self, model: Any, settings: OptimizerSettings, rate: Callable[[int], float], *, bf16: bool
    ) -> None:
        """``rate``: updates made -> learning rate of the next update. bf16: autocast, else float32."""
        self.model = model.train()
        self._parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in self._parameters if p.dim() >= 2],
                    "weight_decay": settings.weight_decay,
                },
                {"params": [p for p in self._parameters if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=1.0,  # the scheduler multiplies this rate
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)
        self._clip_norm, self._bf16 = settings.clip_norm, bf16

    def update(self, batch: Tensor) -> float:
        """Make one update on token ids (sequences, seq_len + 1); return its training loss in nats per token."""
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            logits = self.model(input_ids=batch[:, :-1]).logits
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self.optimizer.step()
        self._scheduler.step()
        return loss.item()
