"""The worker process: runs tasks and turns every error into an outcome. Knows nothing of Ray.

The driver calls a GPU worker from several threads at once (``driver.resources.GPU_QUEUE``): one task computes while the
checkpoints of the next are read. A CPU worker gets one task at a time.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CheckpointError, OutputError
from pipeline.spec import ProbeTask
from pipeline.train.fork_spec import ForkTask

AnyTask = ProbeTask | ForkTask


@dataclass(frozen=True)
class Outcome:
    """How one task ended."""

    key: str
    failure: str | None = None
    """The reason, None if it is done."""
    deaths: int = 0
    """Workers that died on it."""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    busy_s: float = 0.0
    """Seconds its worker computed on it."""
    idle_s: float = 0.0
    """Seconds its worker computed nothing before it: downloads and files it waited for."""
    host: str = ""
    """Where it ran; filled in by the driver."""


class TaskWorker:
    """The actor: the warm state that all of a worker's tasks share. ``run`` may be called from several threads."""

    def __init__(self, threads: int) -> None:
        import torch
        import transformers.modeling_utils  # noqa: F401 - seconds, which the first task would otherwise be charged

        from pipeline.tasks import Runner

        torch.set_num_threads(threads)
        self._runner = Runner()

    def run(self, task: AnyTask) -> Outcome:
        """Runs ``task``; an error of its own comes back as a failed Outcome, never as an exception."""
        try:
            done = self._runner.run(task)
        except OutputError:
            raise  # no other task could write either: the driver stops
        except CheckpointError as error:
            return Outcome(task.key, str(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours: reported with its place, the others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            return Outcome(task.key, f"unexpected {type(error).__name__} at {where}: {error}")
        return Outcome(
            task.key, seconds=done.seconds, notes=done.notes, busy_s=done.busy_s, idle_s=done.idle_s
        )
