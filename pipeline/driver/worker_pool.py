"""The worker pool: Ray actors that start and end with the cluster's nodes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError

from pipeline.base.errors import CollapseError
from pipeline.base.event_log import OnEvent
from pipeline.base.plugins import worker_environment
from pipeline.driver.connection import alive_nodes
from pipeline.driver.local_ray import is_alive, require_alive
from pipeline.driver.resources import Layout
from pipeline.driver.task_queue import Attempt, Task, TaskOutcome

LOOK_EVERY_S = 2.0
"""Seconds between two checks of the cluster's nodes."""
STOP_WAIT_S = 10.0
"""Longest wait, in seconds, for workers to save their runs when they are stopped."""
NO_ROOM_WAIT_S = 300.0
"""Longest wait for a node that a worker fits, in seconds."""
AUTOSCALER_WAIT_S = 1200.0
"""The same if an autoscaler may add one: a machine has to be found, started and set up."""
MAX_FALSE_STARTS = 20
"""Workers in a row that die before they have started."""


class WorkerLostError(Exception):
    """The process that ran a task is gone."""

    def __init__(self, reason: str, *, node: bool = False) -> None:
        super().__init__(reason)
        self.node = node
        """Whether its whole node was lost or became unreachable."""


@dataclass(frozen=True)
class Place:
    """Host, process and node of a worker."""

    host: str
    pid: int
    node: str


def where(_: object) -> Place:
    """Host, process id and node of the worker; runs in the worker."""
    return Place(socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id())


@dataclass(eq=False)
class Worker:
    """An actor and the tasks it holds, oldest first."""

    actor: Any
    starting: Any
    """Reference to its :class:`Place`."""
    place: Place | None = None
    """None until the worker has started; it gets no task before."""
    held: dict[Any, Attempt] = field(default_factory=dict)

    def submit(self, attempt: Attempt) -> Any:
        task: Task = attempt.task
        reference = self.actor.run.options(name=task.key).remote(task)
        self.held[reference] = attempt
        return reference

    def take(self, reference: Any, now: float) -> tuple[Attempt, TaskOutcome]:
        """Remove ``reference`` from the tasks; return its outcome. Raises WorkerLostError if the worker died."""
        outcome: TaskOutcome = _get(reference)
        attempt = self.held.pop(reference)
        for following in list(self.held.values())[:1]:
            following.queued, following.began = False, now
        return attempt, outcome

    def ask_to_stop(self) -> bool:
        """Send SIGTERM to the worker's process; False if that is impossible (another host, not started)."""
        if self.place is None or self.place.host != socket.gethostname():
            return False
        with suppress(ProcessLookupError):
            os.kill(self.place.pid, signal.SIGTERM)
        return True


def _get(reference: Any) -> Any:
    """The value of ``reference``. Raises WorkerLostError if its worker is gone, else CollapseError if it fails."""
    try:
        return ray.get(reference)
    except (RayActorError, WorkerCrashedError, OutOfMemoryError) as error:
        if getattr(error, "actor_init_failed", False):
            raise CollapseError(f"a worker cannot start: {error}") from None
        reason = str(error).strip().splitlines()
        # Unavailable: the connection is lost; whether the process still lives is unknown.
        node = isinstance(error, ray.exceptions.ActorUnavailableError) or "node has died" in str(error)
        raise WorkerLostError("its node was lost" if node else reason[0], node=node) from error
    except RayTaskError as error:  # raised by the task: an OutputError, or an error that cannot be pickled
        raise (error.cause if isinstance(error.cause, CollapseError) else CollapseError(str(error))) from None
    except RayError as error:
        raise CollapseError(f"Ray failed: {error}; run the same command again to resume") from error


class WorkerPool:
    """The pool: as many workers as fit the cluster and have tasks."""

    def __init__(self, worker_class: type, layout: Layout, on_event: OnEvent) -> None:
        remote, environment = ray.remote(worker_class), worker_environment()
        self._layout, self._on_event = layout, on_event
        self._remote = remote.options(
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=layout.queue,
            runtime_env={"env_vars": environment} if environment else None,
        )
        self._workers: list[Worker] = []
        self._owner: dict[Any, Worker] = {}
        """Worker by reference that is waited for."""
        self._looked, self._room = float("-inf"), time.monotonic()
        self._false_starts = self._wanted = 0

    def fit(self, tasks: int) -> None:
        """Start workers for ``tasks`` unfinished tasks if they fit the cluster; cheap to call often."""
        require_alive()
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            nodes = list(alive_nodes().values())
            self._wanted = self._layout.wanted(nodes, tasks)
            if self._layout.slots(nodes) or any(worker.place for worker in self._workers):
                self._room = now
            elif now - self._room > (wait_s := AUTOSCALER_WAIT_S if self._layout.grows else NO_ROOM_WAIT_S):
                raise CollapseError(
                    f"no node of the cluster could hold a worker for {wait_s:.0f} s, {tasks} tasks are left: "
                    "add a node and run the same command again to resume"
                )
        while len(self._workers) < min(self._wanted, tasks):
            self._start()

    @property
    def size(self) -> int:
        """Number of workers that have started or are starting."""
        return len(self._workers)

    def free(self) -> Iterator[Worker]:
        """Workers that can take another task, those with the fewest first."""
        for held in range(self._layout.queue):
            yield from [worker for worker in self._workers if worker.place and len(worker.held) == held]

    def submit(self, worker: Worker, attempt: Attempt) -> None:
        self._owner[worker.submit(attempt)] = worker

    def ended(self, timeout_s: float) -> list[tuple[Worker, Any]]:
        """Wait for the first task to end, with an outcome or with its worker; return all that have ended.

        A worker that has started or failed to start also ends the wait.
        """
        references = list(self._owner)
        if not references:
            time.sleep(min(timeout_s, LOOK_EVERY_S))
            return []
        ready, left = ray.wait(references, num_returns=1, timeout=timeout_s)
        if ready and left:
            more, _ = ray.wait(left, num_returns=len(left), timeout=0)
            ready += more
        ended = []
        for reference in ready:
            worker = self._owner.pop(reference)
            if worker.starting is reference:
                self._greet(worker)
            else:
                ended.append((worker, reference))
        return ended

    def lose(self, worker: Worker, reason: str, *, stopped: bool = False) -> list[Attempt]:
        """Remove a lost worker from the pool, or kill it if ``stopped``; return its tasks, oldest first."""
        held = list(worker.held.values())
        for reference in (*worker.held, worker.starting):
            self._owner.pop(reference, None)
        worker.held.clear()
        if worker in self._workers:
            self._workers.remove(worker)
        ray.kill(worker.actor)  # a worker that only seems to be gone must not continue either
        if worker.place is not None:
            self._on_event("worker_lost", **vars(worker.place), reason=reason, stopped=stopped or None)
        self._looked = float("-inf")
        return held

    def stop(self, *, interrupted: bool) -> None:
        """End the workers. If work is ``interrupted``, ask the busy ones first, so that they can save their runs."""
        if not is_alive():  # Ray is dead: the watchdog ends the processes
            self._workers.clear()
            return
        if interrupted:
            asked = [
                reference
                for worker in self._workers
                if worker.held and worker.ask_to_stop()
                for reference in worker.held
            ]
            if asked:
                ray.wait(asked, num_returns=len(asked), timeout=STOP_WAIT_S, fetch_local=False)
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()

    def _start(self) -> None:
        actor = self._remote.remote(threads=self._layout.cpus)
        self._join(Worker(actor, actor.__ray_call__.remote(where)))

    def _join(self, worker: Worker) -> None:
        self._workers.append(worker)
        self._owner[worker.starting] = worker

    def _greet(self, worker: Worker) -> None:
        try:
            worker.place = _get(worker.starting)
        except WorkerLostError as error:
            self.lose(worker, str(error))
            self._false_starts += 1
            if self._false_starts > MAX_FALSE_STARTS:
                raise CollapseError(
                    f"{self._false_starts} workers in a row died while starting: {error}"
                ) from None
            return
        self._false_starts = 0
        self._on_event("worker_joined", **vars(worker.place))
