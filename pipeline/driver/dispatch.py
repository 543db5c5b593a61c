"""The dispatch loop: hand out tasks, take outcomes in completion order, handle lost workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pipeline.base.english import counted
from pipeline.base.event_log import OnEvent, ignore
from pipeline.driver.connection import cluster
from pipeline.driver.ray_metrics import RayMetrics
from pipeline.driver.resources import Layout, Resources
from pipeline.driver.task_queue import Attempt, Task, TaskOutcome, TaskQueue
from pipeline.driver.worker_pool import Worker, WorkerLostError, WorkerPool

TICK_S = 1.0
"""Longest time between two checks for hung tasks, stragglers and new nodes, in seconds."""


@dataclass(frozen=True)
class RunningWorkers:
    """A worker pool that is connected and starting."""

    layout: Layout
    pool: WorkerPool
    on_event: OnEvent = ignore

    def drive(
        self,
        tasks: Sequence[Task],
        on_outcome: Callable[[TaskOutcome], None],
        *,
        on_tick: Callable[[], None] = lambda: None,
        label: str = "",
    ) -> None:
        """Run every task, report each outcome once, as it comes, and end the workers. Call it once.

        ``on_tick`` is called in every iteration, at least every ``TICK_S`` seconds; it must be quick. ``label``: tag
        of the run's metrics. Raises OutputError as soon as a worker cannot write; finished shards stay. An exception
        from ``on_outcome`` or Ctrl-C stops the workers and passes through.
        """
        _Dispatch(self, tasks, on_outcome, on_tick, RayMetrics(label)).run()


@contextmanager
def running_workers(
    resources: Resources,
    tasks: int,
    worker_class: type,
    on_event: OnEvent = ignore,
    *,
    long_tasks: bool = False,
) -> Iterator[RunningWorkers]:
    """Context manager: connect to Ray and begin to start workers for up to ``tasks`` tasks; starting takes seconds.

    ``worker_class``: made as ``worker_class(threads=N)`` in each worker's process; its ``run(task)`` gives an Outcome,
    from several threads at once where ``layout.queue`` says so. ``long_tasks``: see ``Layout.long_tasks``.
    """
    with cluster(resources) as planned:
        layout = replace(planned, long_tasks=long_tasks)
        pool = WorkerPool(worker_class, layout, on_event)
        try:
            pool.fit(tasks)
            yield RunningWorkers(layout, pool, on_event)
        finally:
            pool.stop(interrupted=False)


class _Dispatch:
    """One call of :meth:`RunningWorkers.drive`."""

    def __init__(
        self,
        workers: RunningWorkers,
        tasks: Sequence[Task],
        on_outcome: Callable[[TaskOutcome], None],
        on_tick: Callable[[], None],
        metrics: RayMetrics,
    ) -> None:
        layout = workers.layout
        self._queue = TaskQueue(tasks, detects_hung=not layout.long_tasks, timeout_s=layout.task_timeout_s)
        self._pool, self._on_event = workers.pool, workers.on_event
        self._on_outcome, self._on_tick, self._metrics = on_outcome, on_tick, metrics
        self._checked = time.monotonic()

    def run(self) -> None:
        """Run until every task is finished."""
        interrupted = True
        try:
            while self._queue.unsettled:
                self._pool.fit(len(self._queue.unsettled))
                self._hand_out()
                for worker, reference in self._pool.ended(TICK_S):
                    self._take(worker, reference)
                self._kill_overdue()
                self._on_tick()
            interrupted = False
        finally:
            self._pool.stop(interrupted=interrupted)

    def _hand_out(self) -> None:
        now = time.monotonic()
        for worker in self._pool.free():
            if len(worker.held) > 1 and self._queue.waiting <= self._pool.size:
                continue  # near the end a task is left for the first idle worker
            attempt = self._queue.next(worker, now, next(iter(worker.held.values()), None))
            if attempt is not None:
                self._pool.submit(worker, attempt)

    def _take(self, worker: Worker, reference: Any) -> None:
        if reference not in worker.held:
            return  # its worker was removed together with another of its tasks
        try:
            attempt, outcome = worker.take(reference, time.monotonic())
        except WorkerLostError as error:
            self._give_up(worker, str(error), node=error.node)
            return
        self._queue.settle(attempt, time.monotonic())
        self._report(outcome, "" if worker.place is None else worker.place.host)

    def _give_up(self, worker: Worker, reason: str, *, node: bool = False, stopped: bool = False) -> None:
        """Remove ``worker``. It was running its oldest task; those queued behind were not tried."""
        held = self._pool.lose(worker, reason, stopped=stopped)
        for position, attempt in reversed(list(enumerate(held))):  # each goes to the front: the oldest last
            self._requeue(attempt, reason, tried=position == 0, node=node)

    def _requeue(self, attempt: Attempt, reason: str, *, tried: bool, node: bool) -> None:
        key = attempt.task.key
        again = self._queue.lost(attempt, tried=tried, node=node)
        deaths = self._queue.deaths[key]
        if again:
            self._on_event("retried", key=key, reason=reason, attempt=deaths + 1)
        else:
            times = (
                f"its worker died {counted(deaths, 'time')}"
                if not node
                else "its node was lost again and again"
            )
            self._report(TaskOutcome(key, f"{times}, the last time: {reason}"), "")

    def _report(self, outcome: TaskOutcome, host: str) -> None:
        outcome = replace(outcome, deaths=self._queue.deaths[outcome.key], host=host)
        self._metrics.record(outcome)
        self._on_outcome(outcome)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        if now - self._checked < TICK_S:
            return
        self._checked = now
        for attempt in self._queue.overdue(now):
            worker = attempt.holder
            if isinstance(worker, Worker) and worker.held:
                seconds = self._queue.timeout_s()
                self._give_up(worker, f"no result within {seconds:.0f} s (--task-timeout)", stopped=True)
