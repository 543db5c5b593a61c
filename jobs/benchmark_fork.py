"""``benchmark --fork``: the training loop one would write first against the one of ``fork``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.console import console, errors, progress
from pipeline.base.errors import UsageError
from pipeline.base.files import make_folder, write_atomically

if TYPE_CHECKING:
    from torch import nn

DEFAULT_SEQ_LEN = 512


def compare_forks(options: dict[str, Any], folder: Path | None, *, as_json: bool) -> None:
    """Measures, prints and, where there is a ``folder``, writes ``benchmark-fork.json`` into it."""
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
            _model(options),
            updates=options["updates"],
            sequences=sequences,
            seq_len=seq_len,
            device=device,
            compiled=device.type == "cuda" if options["compile"] is None else options["compile"],
            on_step=lambda side, done, total: show(done, total, None, side),
        )
    console.print(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()), markup=False)
    if folder is not None:
        make_folder(folder)
        path = folder / "benchmark-fork.json"
        write_atomically(path, (json.dumps(found.to_json(), indent=1) + "\n").encode())
        errors.print(f"wrote {path}", markup=False)


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
    last = open_suite(options["suite"] or "tiny").checkpoints[-1]
    return lambda: checkpoint(fetch(last))
