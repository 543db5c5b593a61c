"""Runs tasks on Ray: the only module that imports it.

Actors, not tasks, do the work: an actor keeps its GPU, its model skeleton and its tokens, where a reused GPU task
worker may be handed another ``CUDA_VISIBLE_DEVICES`` after CUDA has initialised. Each actor holds a bounded
number of tasks, and results are taken in order of completion.

A worker that dies (killed, out of memory) is replaced and the task it was on tried again, at most ``MAX_ATTEMPTS``
times in all; Ray's own retries are off, because they would go on for ever. An error that a task raises itself is
deterministic and never retried. Sizes that the cluster can never offer are refused before any work: Ray would
wait for them for ever.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.devices import cuda_memory
from pipeline.errors import CollapseError, UsageError
from pipeline.signals import exit_on_sigterm
from pipeline.worker import AnyTask, Outcome, TaskWorker

CONNECT_TIMEOUT_S = 10
"""Longest wait for a cluster to answer at its address."""

MAX_ATTEMPTS = 3
"""Tries of one task whose worker dies."""

STOP_WAIT_S = 10.0
"""Longest wait for workers that were asked to stop to save their runs."""

GPU_QUEUE = 2
"""Tasks handed to a GPU worker at a time: one computing, one being read. A CPU worker reads and computes on the
same core, so it holds one, and none waits behind a slow one at the end."""


@dataclass(frozen=True)
class Resources:
    """What the work may use. On the CPU the threads per worker may change the last bits of a number."""

    address: str | None = None
    """Ray cluster to connect to; None starts a local one (or joins the one a submitted job runs in)."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto`` = cuda where the cluster has a GPU."""
    workers_per_gpu: int = 1
    """Workers that share a GPU."""
    workers: int | None = None
    """Most workers at a time; None = every GPU slot, or every CPU core."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"unknown device {self.device!r}: wanted auto, cpu or cuda")
        if self.workers_per_gpu < 1 or (self.workers is not None and self.workers < 1):
            raise UsageError("workers and workers per GPU must be at least 1")


@dataclass(frozen=True)
class Layout:
    """How many workers of which size the cluster takes."""

    device: str
    workers: int
    cpus: float
    """CPU cores, and so torch threads, of each worker."""
    gpus: float
    """Share of a GPU of each worker."""
    read_ahead: bool = True
    """Whether a GPU worker takes its next task early; long tasks had better wait for whoever is free."""

    @property
    def queue(self) -> int:
        """Tasks that a worker holds at a time."""
        return GPU_QUEUE if self.device == "cuda" and self.read_ahead else 1


class WorkerLostError(Exception):
    """The process that ran a task is gone."""


@contextmanager
def cluster(resources: Resources) -> Iterator[Layout]:
    """Connects to Ray (or starts it on this machine) for the length of the block."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = not ray.is_initialized()
    if ours:
        local = resources.address is None and "RAY_ADDRESS" not in os.environ
        options: dict[str, Any] = {"include_dashboard": False} if local else {"address": resources.address}
        try:
            _require_listener(resources.address)
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            raise UsageError(
                f"cannot use the Ray cluster at {resources.address or 'this machine'}: {error}"
            ) from error
    try:
        with exit_on_sigterm():  # Ray's own handler would kill the workers before they can save their runs
            yield plan_layout(resources, ray.cluster_resources())
    finally:
        if ours:
            ray.shutdown()


def _require_listener(address: str | None) -> None:
    """OSError where nothing answers at ``host:port`` (Ray itself would go on trying for minutes)."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def resolve_device(resources: Resources) -> str:
    """The device that ``resources`` will give, without starting anything on this machine."""
    if resources.device != "auto":
        return resources.device
    if ray.is_initialized() or resources.address is not None or "RAY_ADDRESS" in os.environ:
        with cluster(resources) as layout:
            return layout.device
    return "cuda" if cuda_memory() else "cpu"


def gpu_memory(resources: Resources, wait_s: float = 30.0) -> int | None:
    """Bytes of the smallest GPU here, or on the cluster's nodes; None where none answers (within ``wait_s``)."""
    if not (ray.is_initialized() or resources.address is not None or "RAY_ADDRESS" in os.environ):
        return min(cuda_memory(), default=None)
    with cluster(resources):
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        ask = ray.remote(cuda_memory).options
        asked = [ask(num_gpus=0.01, scheduling_strategy=place).remote() for place in places]
        ready = ray.wait(asked, num_returns=len(asked), timeout=wait_s)[0] if asked else []
        return min((size for sizes in ray.get(ready) for size in sizes), default=None)


def plan_layout(resources: Resources, offered: dict[str, float]) -> Layout:
    """Workers for what the cluster offers (Ray's names, ``CPU`` and ``GPU``); UsageError where it cannot be.

    >>> plan_layout(Resources(workers_per_gpu=2), {"CPU": 16.0, "GPU": 2.0})
    Layout(device='cuda', workers=4, cpus=1, gpus=0.5)
    """
    gpus, cpus = offered.get("GPU", 0.0), int(offered.get("CPU", 0.0))
    device = resources.device if resources.device != "auto" else ("cuda" if gpus >= 1 else "cpu")
    if device == "cuda":
        if gpus < 1:
            raise UsageError(
                f"--device cuda: the cluster has {gpus:g} GPUs; use --device cpu, or add a GPU node"
            )
        slots = int(gpus) * resources.workers_per_gpu
        if cpus < 1:
            raise UsageError(
                "the cluster offers no CPU core to its GPU workers; start it with at least --num-cpus 1"
            )
        return Layout("cuda", min(resources.workers or slots, slots), 1, 1 / resources.workers_per_gpu)
    wanted = resources.workers or cpus
    if cpus < 1 or wanted > cpus:
        raise UsageError(
            f"{max(wanted, 1)} CPU workers do not fit a cluster of {cpus} cores; use --workers {cpus}"
        )
    return Layout("cpu", wanted, cpus // wanted, 0)


def drive(
    tasks: Sequence[AnyTask],
    layout: Layout,
    on_outcome: Callable[[Outcome], None],
    worker_class: type | None = None,
) -> None:
    """Runs every task, reporting each as it ends. ``worker_class`` replaces :class:`TaskWorker`.

    Raises OutputError as soon as a worker cannot write; what is finished stays. An exception from
    ``on_outcome`` or Ctrl-C stops the workers and passes through.
    """
    fleet = _Fleet(worker_class or TaskWorker, layout, n_workers=min(layout.workers, len(tasks)))
    waiting = deque(tasks)
    deaths: Counter[str] = Counter()
    try:
        while waiting or fleet.busy():
            while waiting and (worker := fleet.free()) is not None:
                worker.submit(waiting.popleft())
            worker, reference = fleet.next_finished()
            try:
                outcome = worker.take(reference)
            except WorkerLostError as error:
                # The oldest task is the one it was on; those queued behind were not tried.
                suspect, *queued = worker.held.values()
                fleet.replace(worker)
                waiting.extendleft(reversed(queued))
                deaths[suspect.key] += 1
                if deaths[suspect.key] < MAX_ATTEMPTS:
                    waiting.appendleft(suspect)
                    continue
                outcome = Outcome(
                    suspect.key, f"its worker died {MAX_ATTEMPTS} times, the last time: {error}"
                )
            on_outcome(replace(outcome, deaths=deaths[outcome.key]))
    finally:
        fleet.stop()


@dataclass(eq=False)
class _Worker:
    """An actor and the tasks it holds, oldest first."""

    actor: Any
    process: Any
    """Reference to the host and process id of the actor."""
    held: dict[Any, AnyTask] = field(default_factory=dict)

    def submit(self, task: AnyTask) -> None:
        self.held[self.actor.run.options(name=task.key).remote(task)] = task

    def take(self, reference: Any) -> Outcome:
        """The outcome behind ``reference``, which the worker then no longer holds; WorkerLostError if it died."""
        try:
            outcome: Outcome = ray.get(reference)
        except (RayActorError, WorkerCrashedError, OutOfMemoryError) as error:
            if getattr(error, "actor_init_failed", False):
                raise CollapseError(f"a worker cannot start: {error}") from None
            raise WorkerLostError(str(error).strip().splitlines()[0]) from error
        except RayTaskError as error:  # raised by the task: an OutputError, or one that would not travel
            raise (
                error.cause if isinstance(error.cause, CollapseError) else CollapseError(str(error))
            ) from None
        except RayError as error:
            raise CollapseError(f"Ray failed: {error}; run the same command again to resume") from error
        del self.held[reference]
        return outcome

    def ask_to_stop(self) -> bool:
        """Sends SIGTERM to the worker's process; False where that is not possible (another host, not started)."""
        try:
            host, pid = ray.get(self.process, timeout=0.1)
        except (ray.exceptions.RayError, TimeoutError):
            return False
        if host != socket.gethostname():
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return True


class _Fleet:
    """The workers, replaced one for one as they die."""

    def __init__(self, worker_class: type, layout: Layout, n_workers: int) -> None:
        remote = ray.remote(worker_class)
        self._queue = layout.queue
        self._remote = remote.options(
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=layout.queue,
        )
        self._threads = int(layout.cpus)
        self._workers = [self._start() for _ in range(n_workers)]

    def busy(self) -> bool:
        return any(worker.held for worker in self._workers)

    def free(self) -> _Worker | None:
        """The worker that holds the fewest tasks, if it has room."""
        worker = min(self._workers, key=lambda worker: len(worker.held))
        return worker if len(worker.held) < self._queue else None

    def next_finished(self) -> tuple[_Worker, Any]:
        """Waits for a task to end, well or with its worker."""
        owner = {reference: worker for worker in self._workers for reference in worker.held}
        ready, _ = ray.wait(list(owner), num_returns=1)
        return owner[ready[0]], ready[0]

    def replace(self, worker: _Worker) -> None:
        self._workers[self._workers.index(worker)] = self._start()

    def stop(self) -> None:
        """Ends the workers; one that is at work is asked first, so that a run can save where it stands."""
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

    def _start(self) -> _Worker:
        actor = self._remote.remote(threads=self._threads)
        return _Worker(actor, actor.process.remote())
