"""What the work may use, and how many workers of which size that comes to. Plain arithmetic, no Ray."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.base.errors import UsageError

GPU_QUEUE = 3
"""Tasks handed to a GPU worker at a time: one computing, one being read, and one whose reading begins when that one's
turn to compute comes, not a message to the driver and back later (25 ms of 345 on an H100, where reading took as long
as computing). A CPU worker reads and computes on the same core, so it holds one, and none waits behind a slow one at
the end."""

Nodes = Sequence[Mapping[str, float]]
"""Of every node what it offers in all, by Ray's names (``CPU``, ``GPU``)."""


@dataclass(frozen=True)
class Resources:
    """What the work may use. On the CPU the threads per worker may change the last bits of a number."""

    address: str | None = None
    """Ray cluster to connect to; None starts a local one (or joins the one a submitted job runs in)."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto`` = cuda where a node has a GPU."""
    workers_per_gpu: int = 1
    """Workers that share a GPU."""
    workers: int | None = None
    """Most workers at a time; None = every GPU slot, or every CPU core, of nodes that join later too."""
    gpus_per_worker: float | None = None
    """The same as a share of one GPU: above 0, at most 1, because a worker computes on one."""
    task_timeout_s: float | None = None
    """Seconds after which a worker at one task is taken for hung and killed; 0 = never. None: 20 times the slowest
    task so far, at least an hour (never for training runs)."""
    cpu_worker_bytes: int | None = None
    """Host memory that each worker on a CPU takes at most, where it is known; ``workers`` goes before it."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"unknown device {self.device!r}: wanted auto, cpu or cuda")
        if self.workers_per_gpu < 1 or (self.workers is not None and self.workers < 1):
            raise UsageError("workers and workers per GPU must be at least 1")
        if self.gpus_per_worker is not None and not 0 < self.gpus_per_worker <= 1:
            raise UsageError(
                f"{self.gpus_per_worker:g} GPUs per worker: a worker computes on one GPU or on a share of it; "
                "wanted a number above 0 and at most 1, such as 0.5"
            )
        if self.gpus_per_worker is not None and self.workers_per_gpu != 1:
            raise UsageError(
                "workers per GPU and GPUs per worker say the same thing in two ways: give one of them"
            )
        if self.task_timeout_s is not None and self.task_timeout_s < 0:
            raise UsageError(f"a task timeout of {self.task_timeout_s:g} s: wanted seconds, or 0 for never")

    @property
    def gpu_share(self) -> float:
        """Of one GPU, for each worker."""
        return 1 / self.workers_per_gpu if self.gpus_per_worker is None else self.gpus_per_worker


@dataclass(frozen=True)
class Layout:
    """How many workers of which size the cluster takes."""

    device: str
    workers: int
    """That fit now, or that were asked for."""
    cpus: int
    """CPU cores, and so torch threads, of each worker."""
    gpus: float
    """Share of a GPU of each worker."""
    limit: int | None = None
    """Most workers, however the cluster grows."""
    task_timeout_s: float | None = None
    """As in :class:`Resources`."""
    long_tasks: bool = False
    """Whether tasks are long and keep a state of their own: each is then handed to whoever is free, none ahead."""
    grows: bool = False
    """Whether an autoscaler may bring nodes for workers that find no room now."""
    worker_bytes: int | None = None
    """Host memory that each worker takes at most; None = not looked at."""

    @property
    def queue(self) -> int:
        """Tasks that a worker holds at a time."""
        return GPU_QUEUE if self.device == "cuda" and not self.long_tasks else 1

    def slots(self, nodes: Nodes) -> int:
        """Workers that ``nodes`` have room for, each on one node."""
        return sum(
            min(_fit(node, self.cpus, self.gpus), _in_memory(node, self.worker_bytes)) for node in nodes
        )

    def wanted(self, nodes: Nodes, tasks: int) -> int:
        """Workers to have for ``tasks`` unfinished tasks; with ``grows`` all that were asked for, room or not."""
        there = self.slots(nodes)
        if self.limit is None:
            return min(tasks, there)
        return min(tasks, self.limit if self.grows else min(self.limit, there))


def _fit(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Workers that fit one node. Ray splits each GPU of a node by itself: a worker has its share of one of them."""
    by_cpu = int(node.get("CPU", 0.0)) // max(cpus, 1)
    if gpus == 0:
        return by_cpu
    return min(by_cpu, int(node.get("GPU", 0.0)) * int(1 / gpus + 1e-9))


def _in_memory(node: Mapping[str, float], worker_bytes: int | None) -> int:
    """Workers that the memory of one node has room for; one always has: the bound is from above, and a worker for which
    a checkpoint is too large goes through it layer by layer.
    """
    if not worker_bytes or "memory" not in node:
        return sys.maxsize
    return max(1, int(node["memory"] / worker_bytes))


def plan_layout(resources: Resources, nodes: Nodes, *, grows: bool = False) -> Layout:
    """Workers for what the nodes offer; UsageError where it cannot be. ``grows``: an autoscaler may add nodes.

    >>> plan_layout(Resources(workers_per_gpu=2), [{"CPU": 16.0, "GPU": 2.0}]).workers
    4
    """
    gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if resources.device == "cuda" or (resources.device == "auto" and gpus >= 1):
        return _gpu_layout(resources, nodes, grows=grows)
    return _cpu_layout(resources, nodes, grows=grows)


def _gpu_layout(resources: Resources, nodes: Nodes, *, grows: bool) -> Layout:
    layout = Layout(
        "cuda", 0, 1, resources.gpu_share, resources.workers, resources.task_timeout_s, grows=grows
    )
    slots = layout.slots(nodes)
    if slots == 0 and not grows:
        if all(node.get("GPU", 0.0) < 1 for node in nodes):
            raise UsageError(
                "--device cuda: the cluster has no GPU; use --device cpu, or add a GPU node. Where an autoscaler would "
                "add one, say how many workers to ask it for with --address auto --workers N"
            )
        raise UsageError(
            "no node with a GPU offers a CPU core to its workers; start it with at least --num-cpus 1"
        )
    return replace(layout, workers=min(resources.workers or max(slots, 1), max(slots, 1)))


def _cpu_layout(resources: Resources, nodes: Nodes, *, grows: bool) -> Layout:
    """As many threads per worker as leave room for all workers, each on one node."""
    cores = [int(node.get("CPU", 0.0)) for node in nodes]
    wanted = resources.workers or sum(cores)
    if grows:
        wanted = min(wanted, max(sum(cores), 1))
    elif wanted < 1 or wanted > sum(cores):
        raise UsageError(
            f"{max(wanted, 1)} CPU workers do not fit a cluster of {sum(cores)} cores; use --workers {sum(cores)}"
        )
    enough = (n for n in range(max(cores, default=0), 0, -1) if sum(each // n for each in cores) >= wanted)
    threads = next(enough, 1)
    layout = Layout("cpu", wanted, threads, 0, resources.workers, resources.task_timeout_s, grows=grows)
    if resources.workers or not resources.cpu_worker_bytes:
        return layout
    # The threads, which may change the last bits of a number, do not depend on what memory happens to be free.
    layout = replace(layout, worker_bytes=resources.cpu_worker_bytes)
    return replace(layout, workers=min(wanted, layout.slots(nodes)))
