"""The resources that the work may use, and the number and size of workers for them. Plain arithmetic, no Ray."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.base.errors import UsageError

GPU_QUEUE = 3
"""Tasks that a GPU worker holds at a time: one computing, one being read, and one to be read next without a round
trip to the driver (25 ms of 345 on an H100, where reading took as long as computing). A CPU worker reads and
computes on the same core, so it holds one, and no task waits behind a slow one at the end."""

Nodes = Sequence[Mapping[str, float]]
"""Total resources of every node, by Ray's names (``CPU``, ``GPU``)."""


@dataclass(frozen=True)
class Resources:
    """The resources that the work may use. On a CPU the threads per worker may change the last bits of a number."""

    address: str | None = None
    """Ray cluster to connect to; None starts a local one, or joins that of a submitted job."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto`` = cuda where a node has a GPU."""
    workers_per_gpu: int = 1
    """Workers that share a GPU."""
    workers: int | None = None
    """Most workers at a time; None = every GPU slot, or every CPU core, of nodes that join later too."""
    gpus_per_worker: float | None = None
    """Share of one GPU for each worker: above 0, at most 1, because a worker computes on one GPU."""
    task_timeout_s: float | None = None
    """Seconds for one task after which its worker counts as hung and is killed; 0 = never. None: 20 times the slowest
    task so far, at least an hour (never for training runs)."""
    cpu_worker_bytes: int | None = None
    """Upper bound on the host memory of a CPU worker, if known; an explicit ``workers`` overrides it."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"unknown device {self.device!r}: wanted auto, cpu or cuda")
        for name, given in (("workers", self.workers), ("workers per GPU", self.workers_per_gpu)):
            if given is not None and given < 1:
                raise UsageError(f"{given} {name}: wanted at least 1")
        if self.gpus_per_worker is not None and not 0 < self.gpus_per_worker <= 1:
            raise UsageError(
                f"{self.gpus_per_worker:g} GPUs per worker: a worker computes on one GPU or on a share of it; "
                "wanted a number above 0 and at most 1, such as 0.5"
            )
        if self.gpus_per_worker is not None and self.workers_per_gpu != 1:
            raise UsageError(
                "workers per GPU and GPUs per worker are two forms of the same setting: give one of them"
            )
        if self.task_timeout_s is not None and self.task_timeout_s < 0:
            raise UsageError(f"a task timeout of {self.task_timeout_s:g} s: wanted seconds, or 0 for never")

    @property
    def gpu_share(self) -> float:
        return 1 / self.workers_per_gpu if self.gpus_per_worker is None else self.gpus_per_worker


@dataclass(frozen=True)
class Layout:
    """The number and size of the workers."""

    device: str
    workers: int
    """Workers that fit now, or the requested number."""
    cpus: int
    """CPU cores, and so torch threads, per worker."""
    gpus: float
    """Share of a GPU per worker."""
    limit: int | None = None
    """Most workers, however the cluster grows."""
    task_timeout_s: float | None = None
    """See :class:`Resources`."""
    long_tasks: bool = False
    """Whether tasks are long and keep a state of their own: each is then given to an idle worker, none ahead."""
    grows: bool = False
    """Whether an autoscaler may add nodes for workers that do not fit now."""
    worker_bytes: int | None = None
    """Upper bound on a worker's host memory, bytes; None = ignored."""

    @property
    def queue(self) -> int:
        """Tasks that a worker holds at a time."""
        return GPU_QUEUE if self.device == "cuda" and not self.long_tasks else 1

    def slots(self, nodes: Nodes) -> int:
        """Number of workers that fit ``nodes``, each on one node."""
        return sum(
            min(_fit(node, self.cpus, self.gpus), _in_memory(node, self.worker_bytes)) for node in nodes
        )

    def wanted(self, nodes: Nodes, tasks: int) -> int:
        """Number of workers for ``tasks`` unfinished tasks; with ``grows`` even those that do not fit yet."""
        there = self.slots(nodes)
        if self.limit is None:
            return min(tasks, there)
        return min(tasks, self.limit if self.grows else min(self.limit, there))


def _fit(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    """Number of workers that fit one node. Ray shares out each GPU separately: a worker's share is of one GPU."""
    by_cpu = int(node.get("CPU", 0.0)) // max(cpus, 1)
    if gpus == 0:
        return by_cpu
    return min(by_cpu, int(node.get("GPU", 0.0)) * int(1 / gpus + 1e-9))


def _in_memory(node: Mapping[str, float], worker_bytes: int | None) -> int:
    """Number of workers that fit the memory of one node, at least one: the bound is an upper one, and a worker
    measures a checkpoint that is too large layer by layer.
    """
    if not worker_bytes or "memory" not in node:
        return sys.maxsize
    return max(1, int(node["memory"] / worker_bytes))


def plan_layout(resources: Resources, nodes: Nodes, *, grows: bool = False) -> Layout:
    """Lay out workers for ``nodes``; raises UsageError if they cannot fit. ``grows``: an autoscaler may add nodes.

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
                "--device cuda: the cluster has no GPU; use --device cpu, or add a GPU node. If an autoscaler would "
                "add one, say how many workers to ask it for with --address auto --workers N"
            )
        raise UsageError(
            "no node with a GPU offers a CPU core to its workers; start it with at least --num-cpus 1"
        )
    return replace(layout, workers=min(resources.workers or max(slots, 1), max(slots, 1)))


def _cpu_layout(resources: Resources, nodes: Nodes, *, grows: bool) -> Layout:
    """Choose as many threads per worker as let all workers fit, each on one node."""
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
    # Threads may change the last bits of a number, so they must not depend on how much memory is free.
    layout = replace(layout, worker_bytes=resources.cpu_worker_bytes)
    return replace(layout, workers=min(wanted, layout.slots(nodes)))
