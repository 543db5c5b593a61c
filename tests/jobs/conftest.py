"""Small suites and commands for the tests of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.forked import Forked
from tests.jobs.here import worker_here
from tests.models import VOCAB, save_tiny_suite

MEASURE = ("--batches", "4", "--batch-size", "2", "--seq-len", "32", "--workers", "1")
"""A quarter of a thousand tokens on one worker: what a test pays is mostly a worker's imports."""


def command(*arguments: object) -> Result:
    """What a command says and how it exits, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def run(ray_cluster: None) -> Callable[..., Result]:
    """Runs a command in this process, and its workers on the session's Ray cluster."""
    return command


def command_here(*arguments: object, after_task: Callable[[int], None] = lambda _: None) -> Result:
    """As ``command``, with the worker in this process too (:func:`worker_here`)."""
    with worker_here(after_task):
        return command(*arguments)


@pytest.fixture
def run_here() -> Callable[..., Result]:
    return command_here


@pytest.fixture(scope="session")
def tokens_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ``tokens:`` corpus of random ids."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, VOCAB, 4096))
    return f"tokens:{path}"


@pytest.fixture
def llama_suite(tmp_path: Path) -> Path:
    """Six distinct random Llama checkpoints, steps 0 to 50."""
    return save_tiny_suite("llama", tmp_path / "llama", [f"step{step}" for step in range(0, 60, 10)])


def start(*arguments: object, worker: type | None = None) -> subprocess.Popen[str]:
    """Starts a command as a process of its own, in its own session, with its own Ray cluster.

    Its workers are of the class ``worker`` of :mod:`tests.workers`, where one is given.
    """
    program = ["jobs"] if worker is None else ["tests.jobs.with_worker", worker.__name__]
    command = [sys.executable, "-m", *program, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def start_here(*arguments: object, held_after: int | None = None) -> Forked:
    """As ``start``, of a process that is its own worker and without a cluster.

    It stops for ever after so many tasks, where a number is given.
    """
    return Forked(_command_held, [str(argument) for argument in arguments], held_after)


def _command_held(arguments: list[str], held_after: int | None) -> None:
    with worker_here(lambda done: time.sleep(1000) if done == held_after else None):
        main(arguments)


def address() -> str:
    """The address of the session's Ray cluster, for a command that is a process of its own."""
    import ray

    found: str = ray.get_runtime_context().gcs_address
    return found


def trajectory(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "tables" / "trajectory.parquet")
