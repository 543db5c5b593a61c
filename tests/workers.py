"""Workers for tests of the driver, in a module of their own so that Ray's processes can import them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.errors import OutputError
from pipeline.base.event_log import OnEvent, ignore
from pipeline.driver import Layout, RunningWorkers, TaskOutcome, WorkerPool
from pipeline.runs.state_files import StateFiles
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.worker import TaskWorker
from pipeline.spec import Checkpoint, ProbeSpec, TokenShape, parse_variants
from tests.raylets import MARKS


def drive(
    tasks: Sequence[ProbeTask],
    layout: Layout,
    on_outcome: Callable[[TaskOutcome], None],
    worker_class: type,
    on_event: OnEvent = ignore,
    *,
    label: str = "",
) -> None:
    """Run ``tasks`` on the cluster that this process is connected to."""
    pool = WorkerPool(worker_class, layout, on_event)
    RunningWorkers(layout, pool, on_event).drive(tasks, on_outcome, label=label)


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


class HeldWorker(TaskWorker):
    """Does two tasks and is at the third for ever, so that its run can be killed in the middle on any machine."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.left = 2

    def run(self, task: Any) -> TaskOutcome:
        if self.left == 0:
            time.sleep(1000)
        self.left -= 1
        return super().run(task)


class HeldTrainingWorker(TaskWorker):
    """Does one run of training; in the next it saves a state and makes no update until SIGTERM."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.left = 1

    def run(self, task: Any) -> TaskOutcome:
        if self.left == 0:
            StateFiles.write = self.held(StateFiles.write)  # type: ignore[method-assign]
        self.left -= 1
        return super().run(task)

    def held(self, write: Callable[..., None]) -> Callable[..., None]:
        """``write`` that returns once SIGTERM has come."""
        come = threading.Event()

        def write_and_wait(*arguments: Any) -> None:
            before: Any = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *said: (come.set(), before(*said)))
            write(*arguments)
            while not come.wait(0.1):
                pass
            signal.signal(signal.SIGTERM, before)

        return write_and_wait


class HangingUntilGoWorker(TaskWorker):
    """Hangs at its first task where it started before there was the mark ``go``, and leaves ``hangs-NODE``."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.marks = Path(os.environ[MARKS])
        self.hangs = not (self.marks / "go").exists()

    def run(self, task: Any) -> TaskOutcome:
        if self.hangs:
            import ray

            (self.marks / f"hangs-{ray.get_runtime_context().get_node_id()}").touch()
            time.sleep(1000)
        return super().run(task)


class DyingSkewedWorker(TaskWorker):
    """Measures, on a clock that is a day fast on every second worker and a year slow on the others.

    The run's first worker is killed at its third task.
    """

    def __init__(self, threads: int) -> None:
        real, skew = time.time, 86_400 if os.getpid() % 2 else -31_536_000
        time.time = lambda: real() + skew
        super().__init__(threads)

    def run(self, task: Any) -> TaskOutcome:
        mark = Path(task.out) / "killed"
        if not mark.exists() and len(list(Path(task.out).glob("shards/*/*.arrow"))) == 2:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(task)


class FullWorker(NoWorker):
    """Cannot write what comes of step 3."""

    def run(self, task: ProbeTask) -> TaskOutcome:
        if task.checkpoint.step == 3:
            raise OutputError(f"cannot write {task.out}: the disk is full")
        return TaskOutcome(task.key)
