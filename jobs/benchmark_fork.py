"""``benchmark --fork``: the training loop one would write first against the one of ``fork``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jobs.benchmark_options import BenchmarkOptions
from jobs.console import errors, progress
from pipeline.base.errors import UsageError
from pipeline.benchmark import Benchmark
from pipeline.suites import fetch, open_suite

if TYPE_CHECKING:
    from torch import nn


DEFAULT_SEQ_LEN = 512


def compare_forks(options: BenchmarkOptions) -> Benchmark:
    """Time both loops."""
    from pipeline.benchmark.training import compare_training
    from pipeline.train.loop import choose_device

    seq_len = options.audit.seq_len or DEFAULT_SEQ_LEN
    sequences, rest = divmod(options.tokens_per_step, seq_len)
    if rest or sequences < 1:
        raise UsageError(
            f"--tokens-per-step {options.tokens_per_step}: wanted a multiple of --seq-len {seq_len}"
        )
    device = choose_device(options.audit.device)
    with progress("benchmark --fork", errors) as show:
        return compare_training(
            options.shape or str(options.audit.suite),
            _model(options),
            updates=options.updates,
            sequences=sequences,
            seq_len=seq_len,
            device=device,
            compiled=device.type == "cuda" if options.compile is None else options.compile,
            on_step=lambda side, done, total: show(done, total, None, side),
        )


def _model(options: BenchmarkOptions) -> Callable[[], nn.Module]:
    """A function that makes the model to train: of the shape of ``--random``, or the suite's last checkpoint."""
    from pipeline.benchmark.shapes import random_model, shape_config
    from pipeline.benchmark.training import checkpoint

    if shape := options.shape:
        shape_config(shape)
        return lambda: random_model(shape)
    last = open_suite(str(options.audit.suite)).checkpoints[-1]
    return lambda: checkpoint(fetch(last))
