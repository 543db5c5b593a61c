"""The driver with workers that measure nothing: what handing out a task costs.

Hundreds of simulated workers share a few processes, a thread each. The driver does for each of them what it does for
a real one: a handle of its own, a task at a time, an outcome, an event.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline.driver.connection import cluster
from pipeline.driver.fleet import Fleet, Worker, where
from pipeline.driver.loop import Run
from pipeline.driver.outcome import Outcome, Task
from pipeline.driver.resources import Layout, Nodes, Resources
from pipeline.events import AppendedFile, EventLog

PROCESSES = 2
"""That host the simulated workers."""


@dataclass(frozen=True)
class Simulation:
    """What a run of simulated tasks took."""

    tasks: int
    workers: int
    first_s: float
    """Seconds from the call to the first outcome."""
    seconds: float
    """From the first outcome to the last."""

    @property
    def ms_per_task(self) -> float:
        return 1000 * self.seconds / max(1, self.tasks - 1)

    def busy_workers(self, task_s: float) -> float:
        """Workers at tasks of ``task_s`` seconds that one driver keeps busy."""
        return 1000 * task_s / self.ms_per_task


@dataclass(frozen=True)
class IdleTask:
    """A task that does nothing."""

    key: str


class IdleWorker:
    """Stands in for ``TaskWorker``."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def run(self, task: Task) -> Outcome:
        return Outcome(task.key)


@dataclass(frozen=True)
class _Endless(Layout):
    """Room for its workers on any cluster."""

    def slots(self, nodes: Nodes) -> int:  # noqa: ARG002 - as the layout it stands in for
        return self.workers


class _SharedFleet(Fleet):
    """Workers that are threads of ``PROCESSES`` actors."""

    def _start(self) -> None:
        number = len(self._workers)
        shared = self._workers[number % PROCESSES].actor if number >= PROCESSES else self._actor()
        self._join(Worker(shared, shared.__ray_call__.remote(where)))

    def _actor(self) -> Any:
        threads = -(-self._layout.workers // PROCESSES)
        return ray.remote(IdleWorker).options(num_cpus=0, max_concurrency=threads).remote(threads=1)


def simulate(n_tasks: int, n_workers: int) -> Simulation:
    """Drives ``n_tasks`` tasks that do nothing on ``n_workers`` simulated workers."""
    tasks = [IdleTask(f"step{step:09d}") for step in range(n_tasks)]
    ended: list[float] = []
    layout = _Endless("cpu", n_workers, 0, 0.0)
    with (
        tempfile.TemporaryDirectory(prefix="int4-collapse-") as folder,
        EventLog(AppendedFile(Path(folder) / "events.jsonl")) as events,
        cluster(Resources(device="cpu")),
    ):

        def on_outcome(outcome: Outcome) -> None:
            events("done", key=outcome.key, seconds=outcome.seconds, host=outcome.host)
            ended.append(time.perf_counter())

        began = time.perf_counter()
        Run(tasks, layout, on_outcome, events, _SharedFleet(IdleWorker, layout, events)).run()
    return Simulation(n_tasks, n_workers, ended[0] - began, ended[-1] - ended[0])
