"""`ray job submit` for real: a cluster of two nodes on this machine, the repository uploaded, output into S3."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.runs.folder import RunFolder
from tests.jobs.conftest import command_here
from tests.jobs.nodes import Nodes, busy_workers, raylet
from tests.models import save_tiny_suite
from tests.store.faults import Fault
from tests.store.server import Way
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
SIZE = ("--batches", "4", "--batch-size", "8", "--seq-len", "64", "--workers", "2")
N = 6


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites") / "suite"
    return save_tiny_suite("gpt_neox", folder, [f"step{n}" for n in range(N)])


@pytest.fixture(scope="module")
def local(suite: Path, tokens_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to, into a folder."""
    out = tmp_path_factory.mktemp("local")
    done = command_here("run", suite, "--corpus", tokens_file, "--out", out, *SIZE)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def nodes(way: Way) -> Iterator[Nodes]:
    """The head of a cluster, with one core: of two workers, one must go to the other node."""
    nodes = Nodes(1)
    yield nodes
    nodes.close()


def shell(words: Sequence[object]) -> str:
    return shlex.join(map(str, words))


def wait_for_held(way: Way, held: int, nodes: Nodes, job: str) -> None:
    """Waits for so many workers to be in the middle of a checkpoint, held by the store."""

    def are_held() -> bool:
        assert nodes.status(job) in ("PENDING", "RUNNING"), nodes.logs(job)
        return way.faults.held >= held

    wait_for(are_held)


def test_a_stopped_job_is_resumed_by_a_second_one_that_outlives_a_raylet(
    nodes: Nodes, suite: Path, tokens_file: str, local: Path, bucket: str, way: Way
) -> None:
    out = f"{bucket}/run"
    run = ("python", "-m", "jobs", "run", suite, "--corpus", tokens_file, *SIZE)
    hold = Fault("hold", "PUT", ".arrow", passed=1)
    way.faults.add(hold)
    relative, one_worker = (*run, "--out", "outputs/x"), (*run, "--out", out, "--workers", 1)
    script = f"ls -A; {shell(relative)}; echo REFUSED $?; exec {shell(one_worker)}"
    nodes.submit("first", "sh", "-c", script)
    wait_for_held(way, 1, nodes, "first")
    nodes.stop("first")
    wait_for(lambda: nodes.status("first") != "RUNNING")
    assert nodes.status("first") == "STOPPED"
    assert len(RunFolder(out).shards.list_keys()) == 1
    listed, _, said = nodes.logs("first").partition("REFUSED 2")
    assert said, "wrong usage has its exit code"
    assert "working directory is a temporary copy" in listed
    uploaded = set(listed.split())
    assert {"jobs", "pipeline", "requirements.lock"} <= uploaded
    assert not {".git", ".venv", "outputs", "tests", ".mypy_cache"} & uploaded

    way.faults.clear()
    way.faults.add(hold)
    node = nodes.add(1)
    wait_for(lambda: nodes.alive() == 2 and raylet(node) is not None)
    nodes.submit("second", *run, "--out", out)
    lost = raylet(node) or 0
    busy: list[int] = []
    wait_for_held(way, 2, nodes, "second")
    wait_for(lambda: bool(busy.extend(busy_workers(lost)) or busy))
    for victim in (lost, *busy):
        os.kill(victim, signal.SIGKILL)
    way.faults.clear()
    wait_for(lambda: nodes.status("second") not in ("PENDING", "RUNNING"))
    log = nodes.logs("second")
    assert nodes.status("second") == "SUCCEEDED", log
    assert "1 shard exists already" in log
    assert "is locked by a driver" not in log, "one that is stopped gives its lock back"
    assert f"{N - 1} measured, 1 existed already, 0 failed" in log
    assert re.search(rf"^audit: \d+/{N}", log, re.MULTILINE), "progress in plain lines"
    assert "\x1b" not in log
    for name in ("tables/trajectory.parquet", "tables/tensors.parquet"):
        assert RunFolder(out).results.read(name) == (local / name).read_bytes(), name
