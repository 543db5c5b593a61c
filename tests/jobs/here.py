"""Work whose worker is the process that asks for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

import pipeline.runs.execute
from pipeline.driver import Layout, Task, TaskOutcome
from pipeline.runs.worker import TaskWorker


@contextmanager
def worker_here(after_task: Callable[[int], None] = lambda _: None) -> Iterator[None]:
    """Within the block this process is the worker, without Ray: the start of a worker takes seconds.

    ``after_task`` is called with the number of tasks that are done whenever one is.
    """
    layout = Layout("cpu", 1, 2, 0)

    def drive_here(tasks: Sequence[Task], on_outcome: Callable[[TaskOutcome], None], **_: object) -> None:
        worker = TaskWorker(threads=layout.cpus)
        for done, task in enumerate(tasks, 1):
            on_outcome(worker.run(pickle.loads(pickle.dumps(task))))
            after_task(done)

    crew = SimpleNamespace(layout=layout, drive=drive_here)
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.runs.execute, "running_workers", lambda *_, **__: nullcontext(crew))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
