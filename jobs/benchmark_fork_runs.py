"""``benchmark --fork --runs N``: a whole experiment of ``fork`` against N naive runs one after the other."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from jobs.benchmark_options import BenchmarkOptions, random_suite
from jobs.benchmark_record import Stages, saver
from jobs.console import errors, progress
from jobs.suite_argument import resolve_suite
from pipeline.base.devices import cuda_memory
from pipeline.base.errors import UsageError
from pipeline.benchmark import Benchmark
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.fork_course import RUN_SHARE
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.requests import ForkRequest
from pipeline.suites.model_config import model_config
from pipeline.train.arms import BASELINE, PAPER_SCHEDULES, arm_word, parse_arms, resolve
from pipeline.train.schedules import ForkRates, schedules


def compare_runs(options: BenchmarkOptions, runs: int) -> Benchmark:
    """Time both sides, ``runs`` runs each."""
    from pipeline.benchmark.fork_runs import compare_fork_runs

    with (
        tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch,
        random_suite(options, checkpoints=1) as audit,
        progress("benchmark --fork --runs", errors) as show,
    ):
        request = _request(options, audit, runs, Path(scratch))
        return compare_fork_runs(request, Stages(show), saver(options.folder)).plus(complete=True)


def _request(options: BenchmarkOptions, audit: AuditOptions, runs: int, scratch: Path) -> ForkRequest:
    """The request for the experiment: it starts from the suite's last checkpoint and writes under ``scratch``."""
    from pipeline.benchmark.training import RATE

    suite = resolve_suite(str(audit.suite), audit.revisions)
    probe_every = options.probe_every or max(1, options.updates // RUN_SHARE)
    arms = paper_arms(runs, options.updates, probe_every)
    train = scratch / "train.npy"
    tokens = options.updates * options.tokens_per_step + 1
    np.save(train, _random_tokens(model_config(suite).get("vocab_size"), tokens))
    return build_fork_request(
        ForkOptions(
            dataclasses.replace(audit, out=str(scratch / "out")),
            start=str(suite.checkpoints[-1].step),
            schedules=",".join(arms),
            seeds=runs // len(arms),
            n_steps=options.updates,
            probe_every=probe_every,
            tokens_per_step=options.tokens_per_step,
            train_corpus=f"tokens:{train}",
            learning_rate=RATE,
            compile=_on_gpu(audit.device) if options.compile is None else options.compile,
            share_gpu=options.share_gpu,
        ),
        resolve_suite,
    )


def paper_arms(runs: int, updates: int, probe_every: int) -> tuple[str, ...]:
    """The paper's schedules if they share ``runs`` evenly and each has a compared probe; else the baseline alone."""
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
