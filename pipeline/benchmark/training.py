"""Compare the naive training loop with the fork's own, on the same batches from the same weights."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.benchmark.naive_training import NaiveTraining
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.train.loop import Trainer
from pipeline.train.schedules.constant import Constant
from pipeline.train.settings import OptimizerSettings

WARM_UP = 5
"""Updates before timing: memory is allocated, kernels are chosen and, if requested, compiled."""
RATE = 1e-4
"""Learning rate, small so that the losses of the two stay comparable."""


@dataclass(frozen=True)
class TrainingComparison:
    """Speeds and the agreement of one comparison."""

    updates: int
    tokens_per_step: int
    naive_tokens_per_s: float
    ours_tokens_per_s: float
    compiled: bool
    warm_up_s: float
    """Seconds of our first updates, compiling included."""
    max_loss_difference_nats: float
    """Largest difference between the two training losses over the updates."""
    device: str
    precision: str

    @property
    def ratio(self) -> float:
        """Our speed over that of the naive loop."""
        return self.ours_tokens_per_s / self.naive_tokens_per_s

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "ratio": self.ratio}

    def lines(self) -> list[str]:
        """The comparison as text."""
        kind = "compiled" if self.compiled else "not compiled"
        naive_ms, ours_ms = (
            1e3 * self.tokens_per_step / rate for rate in (self.naive_tokens_per_s, self.ours_tokens_per_s)
        )
        return [
            f"training on {self.device}, {self.precision}: {self.updates} updates of {self.tokens_per_step} tokens",
            f"Hugging Face loop        {self.naive_tokens_per_s:12,.0f} tokens/s   {naive_ms:8.2f} ms per update",
            f"fork, {kind:<18} {self.ours_tokens_per_s:12,.0f} tokens/s   {ours_ms:8.2f} ms per update",
            f"ratio                    {self.ratio:12.2f}   (after {self.warm_up_s:.1f} s of warm-up)",
            f"largest difference of the training losses {self.max_loss_difference_nats:.1e} nats",
        ]


def checkpoint(folder: Path) -> nn.Module:
    """Load the model of a checkpoint for training."""
    return build_model(read_config(folder), read_weights(folder)).requires_grad_(True)


def compare_training(
    make: Callable[[], nn.Module],
    *,
    updates: int,
    sequences: int,
    seq_len: int,
    device: torch.device,
    compiled: bool,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> TrainingComparison:
    """Train the model that ``make`` returns with both loops on the same random tokens: ``updates`` after a warm-up."""
    model = make()
    vocabulary: int = model.config.vocab_size  # type: ignore[union-attr, assignment]
    generator = torch.Generator().manual_seed(0)
    total = updates + WARM_UP
    tokens = torch.randint(vocabulary, (total, sequences, seq_len + 1), generator=generator).to(device)
    bf16 = device.type == "cuda"
    ours, ours_s, warm_up_s = _ours(model, tokens, device, compiled=compiled, on_step=on_step)
    del model
    naive, naive_s = _naive(make().to(device), tokens, bf16=bf16, on_step=on_step)
    count = updates * sequences * seq_len
    return TrainingComparison(
        updates=updates,
        tokens_per_step=sequences * seq_len,
        naive_tokens_per_s=count / naive_s,
        ours_tokens_per_s=count / ours_s,
        compiled=compiled,
        warm_up_s=warm_up_s,
        max_loss_difference_nats=max(abs(a - b) for a, b in zip(ours, naive, strict=True)),
        device=torch.cuda.get_device_name(device) if bf16 else "cpu",
        precision="bf16" if bf16 else "fp32",
    )


def _ours(
    model: nn.Module,
    tokens: Tensor,
    device: torch.device,
    *,
    compiled: bool,
    on_step: Callable[[str, int, int], None],
) -> tuple[list[float], float, float]:
    trainer = Trainer(
        model,
        batches=tokens.__getitem__,
        schedule=Constant(len(tokens), RATE, RATE, 0),
        settings=OptimizerSettings(),
        device=device,
        compiled=compiled,
    )
    losses: list[Tensor] = []
    began = start = time.perf_counter()
    for step in range(len(tokens)):
        if step == WARM_UP:
            _finish(device)
            start = time.perf_counter()
        losses.append(trainer.advance())
        on_step("ours", step + 1, len(tokens))
    _finish(device)
    end = time.perf_counter()
    return [loss.item() for loss in losses], end - start, start - began


def _naive(
    model: Any, tokens: Tensor, *, bf16: bool, on_step: Callable[[str, int, int], None]
) -> tuple[list[float], float]:
    training = NaiveTraining(model, OptimizerSettings(), lambda _: RATE, bf16=bf16)
    losses = []
    start = time.perf_counter()
    for step, batch in enumerate(tokens):
        if step == WARM_UP:
            start = time.perf_counter()
        losses.append(training.update(batch))
        on_step("naive", step + 1, len(tokens))
    return losses, time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
