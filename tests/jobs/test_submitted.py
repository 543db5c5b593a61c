"""`ray job submit` for real: a cluster of two nodes on this machine, the repository uploaded, output into S3."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
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


def wait_for_held(way: Way, held: int, nodes: Nodes, job: str) -> None:
    """Waits for so many workers to be in the middle of a checkpoint, held by the store."""

    def are_held() -> bool:
        assert nodes.status(job) in ("PENDING", "RUNNING"), nodes.logs(job)
        return way.faults.held >= held

    wait_for(are_held)


def assert_same_tables(out: str, local: Path) -> None:
    for name in ("tables/trajectory.parquet", "tables/tensors.parquet"):
        assert RunFolder(out).results.read(name) == (local / name).read_bytes(), name


def test_a_raylet_is_killed_and_the_job_succeeds_with_the_tables_of_a_local_run(
    nodes: Nodes, suite: Path, tokens_file: str, local: Path, bucket: str, way: Way
) -> None:
    out = f"{bucket}/run"
    node = nodes.add(1)
    wait_for(lambda: nodes.alive() == 2 and raylet(node) is not None)
    way.faults.add(Fault("hold", "PUT", ".arrow", passed=1))
    submitted = nodes.submit("killed", "run", suite, "--corpus", tokens_file, "--out", out, *SIZE, wait=False)
    assert submitted.returncode == 0, submitted.stderr
    lost = raylet(node) or 0
    busy: list[int] = []
    wait_for_held(way, 2, nodes, "killed")
    wait_for(lambda: bool(busy.extend(busy_workers(lost)) or busy))
    for victim in (lost, *busy):
        os.kill(victim, signal.SIGKILL)
    way.faults.clear()
    wait_for(lambda: nodes.status("killed") not in ("PENDING", "RUNNING"))
    log = nodes.logs("killed")
    assert nodes.status("killed") == "SUCCEEDED", log
    assert f"{N} measured, 0 existed already, 0 failed" in log
    assert re.search(rf"^audit: \d+/{N}", log, re.MULTILINE), "progress in plain lines"
    assert "\x1b" not in log
    assert_same_tables(out, local)


def test_a_job_is_stopped_and_its_successor_resumes(
    nodes: Nodes, suite: Path, tokens_file: str, local: Path, bucket: str, way: Way
) -> None:
    out = f"{bucket}/run"
    command = ("run", suite, "--corpus", tokens_file, "--out", out, *SIZE, "--workers", 1)
    way.faults.add(Fault("hold", "PUT", ".arrow", passed=1))
    nodes.submit("first", *command, wait=False)
    wait_for_held(way, 1, nodes, "first")
    nodes.stop("first")
    wait_for(lambda: nodes.status("first") != "RUNNING")
    assert nodes.status("first") == "STOPPED"
    assert len(RunFolder(out).shards.list_keys()) == 1
    way.faults.clear()
    second = nodes.submit("second", *command)
    assert second.returncode == 0, second.stdout + second.stderr
    assert nodes.status("second") == "SUCCEEDED"
    assert "1 shards exist already" in second.stdout
    assert "is locked by a driver" not in second.stdout, "one that is stopped gives its lock back"
    assert_same_tables(out, local)


def test_only_the_code_is_uploaded_and_wrong_usage_fails_with_its_reason(
    nodes: Nodes, suite: Path, tokens_file: str
) -> None:
    words = f"ls -A && echo LISTED && python -m jobs run {suite} --corpus {tokens_file} --out outputs/x"
    refused = nodes.ray(
        "job", "submit", "--submission-id", "relative", "--working-dir", ".", "--", "sh", "-c", words
    )
    assert refused.returncode == 1
    assert nodes.status("relative") == "FAILED"
    assert "working directory is a temporary copy" in refused.stdout
    uploaded = set(refused.stdout.partition("\nLISTED\n")[0].split())
    assert {"jobs", "pipeline", "requirements.lock"} <= uploaded
    assert not {".git", ".venv", "outputs", "tests", ".mypy_cache"} & uploaded
