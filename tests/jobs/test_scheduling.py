"""Hanging and slow workers, late and skewed ones, on the session's own cluster."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

from pipeline.driver import Layout, TaskOutcome
from tests.workers import CountedWorker, HangingWorker, drive, simulated_tasks

TWO = Layout("cpu", 2, 1, 0)
Event = dict[str, Any]


def driven(
    n: int, layout: Layout, worker: type, out: Path, suite: str = "s"
) -> tuple[list[TaskOutcome], list[Event]]:
    outcomes: list[TaskOutcome] = []
    events: list[Event] = []
    drive(
        simulated_tasks(n, str(out), suite), layout, outcomes.append, worker,
        lambda event, /, **fields: events.append({"event": event, **fields}),
    )  # fmt: skip
    assert sorted(int(outcome.key[-1]) for outcome in outcomes) == list(range(n)), "each once"
    assert not [outcome.failure for outcome in outcomes if outcome.failure]
    return outcomes, events


def named(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if event["event"] == name]


def test_a_hanging_worker_is_killed_and_its_task_tried_again(ray_cluster: None, tmp_path: Path) -> None:
    one_at_a_time = Layout(
        "cpu", 1, 2, 0, limit=1, task_timeout_s=5
    )  # more than a call takes where others work too
    outcomes, events = driven(6, one_at_a_time, HangingWorker, tmp_path)
    (lost,) = named(events, "worker_lost")
    assert lost["stopped"]
    assert "within 5 s" in lost["reason"]
    (retried,) = named(events, "retried")
    assert retried["key"].endswith("3")
    assert retried["attempt"] == 2
    assert {outcome.key[-1]: outcome.deaths for outcome in outcomes}["3"] == 1


def test_rays_own_endpoint_counts_checkpoints_of_a_suite_named_in_any_script(
    ray_cluster: None, tmp_path: Path
) -> None:
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    drive(simulated_tasks(7), TWO, lambda _: None, CountedWorker, label="endpoint \u6a21\u578b")
    wanted = {
        "checkpoints_done": 6,
        "checkpoints_failed": 1,
        "checkpoint_seconds_count": 6,
        "idle_share": 0.25,
    }
    found: dict[str, float] = {}
    line = re.compile(
        r'^ray_int4_collapse_(\w+?)(?:_total)?\{.*suite="endpoint [^"]*u6a21[^"]*".*\} (\S+)$', re.MULTILINE
    )
    deadline = time.monotonic() + 120
    while found.keys() != wanted.keys():
        assert time.monotonic() < deadline, f"only {found} at {url}"
        time.sleep(0.5)
        with urllib.request.urlopen(url, timeout=60) as response:
            text = response.read().decode()
        found = {name: float(value) for name, value in line.findall(text) if name in wanted}
    assert found == wanted
