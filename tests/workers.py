"""Workers for tests of the driver, in a module of their own so that Ray's processes can import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from pipeline.driver import TaskOutcome
from pipeline.runs.worker import TaskWorker
from pipeline.spec import Checkpoint, ProbeSpec, ProbeTask, TokenShape, parse_variants


def simulated_tasks(n: int, out: str = "x", suite: str = "s") -> list[ProbeTask]:
    """Tasks for workers that measure nothing; ``out`` is what those that leave marks write to."""
    probe = ProbeSpec(parse_variants(()), TokenShape(1, 1, 2), "x")
    return [ProbeTask(suite, Checkpoint(step, f"step{step}", "x"), probe, out) for step in range(n)]


class NoWorker(TaskWorker):
    """Does every task at once."""

    def __init__(self, threads: int) -> None:
        pass

    def run(self, task: ProbeTask) -> TaskOutcome:
        return TaskOutcome(task.key)


class CountedWorker(NoWorker):
    """Fails step 3, stands idle for a quarter of the time on the others."""

    def run(self, task: ProbeTask) -> TaskOutcome:
        if task.checkpoint.step == 3:
            return TaskOutcome(task.key, "step 3")
        return TaskOutcome(task.key, seconds=4.0, busy_s=3.0, idle_s=1.0)


class PoisonWorker(NoWorker):
    """Dies on step 3, does the others at once."""

    def run(self, task: ProbeTask) -> TaskOutcome:
        if task.checkpoint.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return TaskOutcome(task.key)


class HangingWorker(NoWorker):
    """Hangs on step 3 the first time, and leaves a mark in the task's folder that it began."""

    def run(self, task: ProbeTask) -> TaskOutcome:
        mark = Path(task.out) / task.key
        if task.checkpoint.step == 3 and not mark.exists():
            mark.touch()
            time.sleep(1000)
        return TaskOutcome(task.key, notes=(f"{os.getpid()}",))


class SleepingWorker(NoWorker):
    """Never ends a task."""

    def run(self, task: ProbeTask) -> TaskOutcome:
        time.sleep(1000)
        return TaskOutcome(task.key)


class SkewedWorker(TaskWorker):
    """Measures, on a clock that is a day fast on every second worker and a year slow on the others."""

    def __init__(self, threads: int) -> None:
        real, skew = time.time, 86_400 if os.getpid() % 2 else -31_536_000
        time.time = lambda: real() + skew
        super().__init__(threads)
