"""Nodes of a cluster that come late or are lost, and a head that is lost: the tables stay the same, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.jobs.conftest import start, trajectory
from tests.jobs.test_faults import N_CHECKPOINTS, shards, suite, undisturbed
from tests.raylets import Raylets, is_ray, raylets
from tests.run_files import events_in
from tests.waiting import wait_for
from tests.workers import HangingUntilGoWorker, HeldWorker

__all__ = ["suite", "undisturbed"]  # fixtures
pytestmark = pytest.mark.slow
ONE_CORE = ("--batches", "4", "--batch-size", "8", "--seq-len", "64")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Raylets]:
    with raylets() as cluster:
        yield cluster


def events(out: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in events_in(out) if event["event"] == name]


def test_a_lost_and_a_late_node_change_nothing(
    nodes: Raylets, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path,
    run_here: Callable[..., Result],
) -> None:  # fmt: skip
    """No time limit here: it would be a race between the limit and Ray's notice that the node is dead."""
    out = tmp_path / "out"
    first = nodes.add()
    audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *ONE_CORE)
    with start(*audit, "--address", nodes.address, worker=HangingUntilGoWorker) as driver:
        wait_for((nodes.marks / f"hangs-{first.node_id}").exists, driver)
        first.kill("raylet")
        (nodes.marks / "go").touch()
        late = nodes.add()
        _, said = driver.communicate(timeout=200)
    assert driver.returncode == 0, said
    (lost,) = events(out, "worker_lost")
    assert lost["node"] == first.node_id
    assert "node was lost" in lost["reason"]
    assert {event["node"] for event in events(out, "worker_joined")} == {first.node_id, late.node_id}
    assert len(events(out, "done")) == N_CHECKPOINTS
    assert run_here("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))


def test_after_the_head_is_killed_the_same_command_completes(
    nodes: Raylets, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path,
    run_here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *ONE_CORE)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")
    with start(*audit, "--address", nodes.address, worker=HeldWorker) as driver:
        wait_for(lambda: len(shards(out)) >= 2, driver)
        workers = [event["pid"] for event in events(out, "worker_joined")]
        nodes.head.kill()
        _, said = driver.communicate(timeout=200)
    for pid in filter(is_ray, workers):
        os.kill(pid, signal.SIGKILL)
    assert driver.returncode != 0, said
    assert 2 <= len(shards(out)) <= 2 * len(workers)
    resumed = run_here(*audit)
    assert resumed.exit_code == 0, resumed.output
    assert run_here("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))
