"""Nodes of a cluster that come late, hang, are lost, and the head with them: the tables stay the same, bit for bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.base.event_log import read_events
from tests.jobs.conftest import start, trajectory
from tests.jobs.test_faults import N_CHECKPOINTS, shards, suite, undisturbed
from tests.raylets import Raylets, RayNode, raylets
from tests.waiting import wait_for

__all__ = ["suite", "undisturbed"]  # fixtures
pytestmark = pytest.mark.slow
ONE_CORE = ("--batches", "4", "--batch-size", "8", "--seq-len", "64")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Raylets]:
    with raylets() as cluster:
        yield cluster


def events(out: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(out / "events.jsonl") if event["event"] == name]


def joined_at(out: Path, node: RayNode) -> list[int]:
    """Process ids of the workers that joined from ``node``."""
    return [event["pid"] for event in events(out, "worker_joined") if event["node"] == node.node_id]


def test_late_lost_and_hanging_nodes_change_nothing(
    nodes: Raylets, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path,
    run: Callable[..., Result],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    first = nodes.add()
    audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *ONE_CORE, "--task-timeout", "5")
    with start(*audit, "--address", nodes.address) as driver:
        wait_for(lambda: (out / "events.jsonl").exists() and bool(joined_at(out, first)), driver)
        os.kill(joined_at(out, first)[0], signal.SIGSTOP)  # before it can have done all that there is
        second = nodes.add()
        wait_for(lambda: bool(joined_at(out, second)), driver)
        os.kill(joined_at(out, second)[0], signal.SIGSTOP)  # so that it is at something when its node goes
        second.kill("raylet")
        _, said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    reasons = {event["node"]: event["reason"] for event in events(out, "worker_lost")}
    assert "no result within 5 s" in reasons[first.node_id]
    assert "node was lost" in reasons[second.node_id]
    assert len(events(out, "done")) == N_CHECKPOINTS
    assert run("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))


def test_after_the_head_is_killed_the_same_command_completes(
    nodes: Raylets, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path,
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *ONE_CORE)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")
    with start(*audit, "--address", nodes.address) as driver:
        wait_for(lambda: len(shards(out)) >= 1, driver)
        workers = [event["pid"] for event in events(out, "worker_joined")]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # or it would finish before anybody misses the head
        nodes.head.kill()
        driver.communicate(timeout=120)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert driver.returncode != 0
    kept = len(shards(out))
    assert kept < N_CHECKPOINTS
    resumed = run(*audit)
    assert resumed.exit_code == 0, resumed.output
    assert run("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))
