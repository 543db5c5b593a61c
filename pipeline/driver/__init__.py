"""Run tasks on Ray. This is the only package that imports Ray.

Actors, not tasks, do the work: an actor keeps its GPU, its model template and its tokens, where a reused GPU task
worker may be handed another ``CUDA_VISIBLE_DEVICES`` after CUDA has initialised. Ray places them by resource, so a
cluster may mix kinds of GPUs: an idle worker takes the next task, and faster ones take more. Only task descriptions
and one-line outcomes cross Ray; weights and numbers go from the workers to the disk.

**Growth.** The worker pool follows the cluster: nodes that join are used within seconds, those that leave are not
waited for. What a worker needs must fit *one node*. Sizes that no node offers are refused before any work, because
Ray would wait for them without end.

**Loss.** Ray's own retries are off, because they never end. A task whose worker died is tried
``MAX_ATTEMPTS`` times in all, and a hung worker (``Resources.task_timeout_s``) is killed and counts the same. A
node that left is not the task's fault: the task returns to the queue, at most ``MAX_LOSSES`` times. An error that
the task itself raises is deterministic and never retried.

**The end.** A GPU worker is given tasks ahead, so that it loads the next checkpoint while it measures one. Near the end
a worker keeps at most one task ahead, and the others go to the first idle worker.

**Clocks.** Every duration is measured on one monotonic clock, the driver's or a worker's. No decision depends on
the time of day, so the clocks of nodes may differ.
"""

from pipeline.driver.connection import cluster, gpu_memory, require_device, resolve_device
from pipeline.driver.dispatch import RunningWorkers, running_workers
from pipeline.driver.resources import Layout, Resources, plan_layout
from pipeline.driver.task_queue import MAX_ATTEMPTS, MAX_LOSSES, Task, TaskOutcome
from pipeline.driver.worker_pool import WorkerPool

__all__ = [
    "MAX_ATTEMPTS", "MAX_LOSSES", "Layout", "Resources", "RunningWorkers", "Task", "TaskOutcome", "WorkerPool",
    "cluster", "gpu_memory", "plan_layout", "require_device", "resolve_device", "running_workers",
]  # fmt: skip
