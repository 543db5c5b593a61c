"""``benchmark --fork``: the training loop one would write first against the one of ``fork``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.benchmark_record import finish
from jobs.console import progress
from pipeline.base.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SEQ_LEN = 512
DEFAULT_SUITE = "tiny"


def compare_forks(options: dict[str, Any], folder: Path | None, *, as_json: bool) -> None:
    """Time both loops and print; ``folder`` receives the numbers too."""
    from pipeline.benchmark.training import compare_training
    from pipeline.train.loop import choose_device

    seq_len = options["seq_len"] or DEFAULT_SEQ_LEN
    sequences, rest = divmod(options["tokens_per_step"], seq_len)
    if rest or sequences < 1:
        raise UsageError(
            f"--tokens-per-step {options['tokens_per_step']}: wanted a multiple of --seq-len {seq_len}"
        )
    device = choose_device(options["device"])
    with progress("benchmark --fork") as show:
        found = compare_training(
            options["shape"] or options["suite"] or DEFAULT_SUITE,
            _model(options),
            updates=options["updates"],
            sequences=sequences,
            seq_len=seq_len,
            device=device,
            compiled=device.type == "cuda" if options["compile"] is None else options["compile"],
            on_step=lambda side, done, total: show(done, total, None, side),
        )
    finish(found, folder, as_json=as_json)


def _model(options: dict[str, Any]) -> Callable[[], nn.Module]:
    """Return a function that makes the model to train: one with the shape of ``--random``, or the suite's last
    checkpoint.
    """
    from pipeline.benchmark.shapes import random_model, shape_config
    from pipeline.benchmark.training import checkpoint
    from pipeline.suites import fetch, open_suite

    shape = options["shape"]
    if shape is not None:
        if options["suite"] is not None:
            raise UsageError(f"--random {shape} replaces the suite {options['suite']}: give one of them")
        shape_config(shape)
        return lambda: random_model(shape)
    last = open_suite(options["suite"] or DEFAULT_SUITE).checkpoints[-1]
    return lambda: checkpoint(fetch(last))
