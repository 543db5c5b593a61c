"""Compare the naive training loop with the fork's own, on the same batches from the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.benchmark.naive_training import NaiveTraining
from pipeline.benchmark.outcome import Benchmark, OnStep, Seconds, Timing
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.train.loop import Trainer
from pipeline.train.schedules.constant import Constant
from pipeline.train.settings import OptimizerSettings

WARM_UP = 5
"""Updates before timing: memory is allocated, kernels are chosen and, if requested, compiled."""
RATE = 1e-4
"""Learning rate, small so that the losses of the two stay comparable."""


def checkpoint(folder: Path) -> nn.Module:
    """Load the model of a checkpoint for training."""
    return build_model(read_config(folder), read_weights(folder)).requires_grad_(True)


def compare_training(
    suite: str,
    make: Callable[[], nn.Module],
    *,
    updates: int,
    sequences: int,
    seq_len: int,
    device: torch.device,
    compiled: bool,
    on_step: OnStep = lambda *_: None,
) -> Benchmark:
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
    tokens_per_step = sequences * seq_len

    def row(what: str, seconds: float, **fields: Any) -> Timing:
        numbers = {"tokens_per_s": updates * tokens_per_step / seconds}
        if what == "fork":
            numbers["warm_up_s"] = warm_up_s
        return Timing(
            what, ours=what == "fork", seconds=Seconds.of([seconds / updates]), numbers=numbers, **fields
        )

    difference = max(abs(a - b) for a, b in zip(ours, naive, strict=True))
    return Benchmark("fork", suite, unit="update", base="fork").plus(
        row("Hugging Face loop", naive_s, differences_nats={"training loss": difference}, against="fork"),
        row("fork", ours_s),
        device=torch.cuda.get_device_name(device) if bf16 else "cpu",
        complete=True,
        precision="bf16" if bf16 else "fp32",
        compiled=compiled,
        updates=updates,
        tokens_per_step=tokens_per_step,
    )


def _ours(
    model: nn.Module,
    tokens: Tensor,
    device: torch.device,
    *,
    compiled: bool,
    on_step: OnStep,
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


def _naive(model: Any, tokens: Tensor, *, bf16: bool, on_step: OnStep) -> tuple[list[float], float]:
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
