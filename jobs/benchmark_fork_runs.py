"""``benchmark --fork --runs N``: a whole experiment of ``fork`` against N naive runs one after the other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from jobs.benchmark_random import random_suite
from jobs.benchmark_record import Stages, finish, saver
from jobs.console import progress
from jobs.options import audit_options
from pipeline.base.devices import cuda_memory
from pipeline.base.errors import UsageError
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import RUN_SHARE, build_fork_request
from pipeline.train.arms import BASELINE, PAPER_SCHEDULES, arm_word, parse_arms, resolve
from pipeline.train.schedules import ForkRates, schedules

if TYPE_CHECKING:
    from pipeline.runs.requests import ForkRequest


def compare_runs(options: dict[str, Any], folder: Path | None, *, as_json: bool) -> None:
    """Time both sides and print; ``folder`` receives the numbers too."""
    from pipeline.benchmark.fork_runs import compare_fork_runs

    with (
        tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch,
        progress("benchmark --fork --runs") as show,
    ):
        request = _request(options, Path(scratch))
        found = compare_fork_runs(request, Stages(show), saver(folder))
    finish(found.plus(complete=True), folder, as_json=as_json)


def _request(options: dict[str, Any], scratch: Path) -> ForkRequest:
    """The request for the experiment: it starts from the suite's last checkpoint and writes under ``scratch``."""
    from jobs.suite_argument import resolve_suite
    from pipeline.benchmark.training import RATE
    from pipeline.suites.model_config import model_config

    if options["shape"] is not None:
        options = options | random_suite(scratch, options, checkpoints=1)
    options = options | {"suite": options["suite"] or "tiny", "out": str(scratch / "out")}
    suite = resolve_suite(options["suite"], options["revisions"])
    runs, updates = options["runs"], options["updates"]
    probe_every = options["probe_every"] or max(1, updates // RUN_SHARE)
    arms = paper_arms(runs, updates, probe_every)
    train = scratch / "train.npy"
    tokens = updates * options["tokens_per_step"] + 1
    np.save(train, _random_tokens(model_config(suite).get("vocab_size"), tokens))
    source = click.get_current_context().get_parameter_source("workers_per_gpu")
    return build_fork_request(
        ForkOptions(
            audit_options(options | {"steps": None, "limit": None}),
            start=str(suite.checkpoints[-1].step),
            schedules=",".join(arms),
            seeds=runs // len(arms),
            n_steps=updates,
            probe_every=probe_every,
            tokens_per_step=options["tokens_per_step"],
            train_corpus=f"tokens:{train}",
            learning_rate=RATE,
            compile=_on_gpu(options["device"]) if options["compile"] is None else options["compile"],
            share_gpu=source == click.core.ParameterSource.DEFAULT and options["gpus_per_worker"] is None,
        ),
        resolve_suite,
    )


def paper_arms(runs: int, updates: int, probe_every: int) -> tuple[str, ...]:
    """The paper's schedules, if ``runs`` divides evenly among them and each has a compared probe in a run; else the
    baseline alone.
    """
    rates = ForkRates(base_lr=1.0, peak_lr=1.0, steps=updates)
    arms = tuple(arm_word(name, schedules.find(name).settings_for(probe_every)) for name in PAPER_SCHEDULES)
    try:
        for arm in parse_arms(",".join(arms)):
            resolve(arm, rates)
    except UsageError:
        return (BASELINE,)
    return arms if runs % len(arms) == 0 else (BASELINE,)


def _random_tokens(vocab_size: object, count: int) -> np.ndarray:
    """Random token ids; sized so that the training split (90 %) has ``count`` tokens."""
    if not isinstance(vocab_size, int):
        raise UsageError(
            f"the suite's config.json gives vocab_size {vocab_size!r}: wanted a number; choose another suite"
        )
    return np.random.default_rng(1).integers(0, vocab_size, -(-count * 10 // 9), dtype=np.int32)


def _on_gpu(device: str) -> bool:
    return device == "cuda" or (device == "auto" and bool(cuda_memory()))
