"""The worker process: run tasks and turn every error into an outcome. Independent of Ray.

The driver calls a GPU worker from several threads at once (``driver.resources.GPU_QUEUE``): one task computes while the
checkpoints of the next are read. A CPU worker gets one task at a time.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

from pipeline.base.errors import CheckpointError, OutputError
from pipeline.base.plugins import load_plugins
from pipeline.driver.task_queue import TaskOutcome
from pipeline.runs.kind_of_work import kinds_of_work

TRACE_CHARACTERS = 20_000
"""Characters of a traceback that are kept, from its end, where the error is."""

_QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>]*")
_LOGIN = re.compile(r"(https?://)[^\s/@'\"<>]+@")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


class TaskWorker:
    """The actor, with the state that a worker's tasks share. ``run`` may be called from several threads."""

    def __init__(self, threads: int) -> None:
        load_plugins()  # before a task that holds a plug-in's class is unpickled
        import torch
        import transformers.modeling_utils  # noqa: F401 - seconds, which the first task would otherwise be charged

        from pipeline.runs.warm_state import WarmState

        torch.set_num_threads(threads)
        self._warm = WarmState()

    def run(self, task: Any) -> TaskOutcome:
        """Run ``task`` by its ``kind``; an error becomes a failed Outcome, never an exception."""
        try:
            done = kinds_of_work.find(task.kind).run(task, self._warm)
        except OutputError:
            raise  # no other task could write either, so the driver stops
        except CheckpointError as error:
            return TaskOutcome(task.key, str(error), traced(error))
        except Exception as error:  # noqa: BLE001 - a defect of ours: reported with its place, the others go on
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            reason = f"unexpected {type(error).__name__} at {where}: {error}"
            return TaskOutcome(task.key, reason, traced(error))
        return TaskOutcome(
            task.key, seconds=done.seconds, notes=done.notes, busy_s=done.busy_s, idle_s=done.idle_s
        )


def traced(error: BaseException) -> str:
    """The traceback of ``error`` and its causes, without credentials.

    Errors of HTTP clients quote whole URLs, and signed URLs carry a credential in their query.
    """
    text = "".join(traceback.format_exception(error))
    text = _TOKEN.sub("hf_...", _LOGIN.sub(r"\1...@", _QUERY.sub(r"\1?...", text)))
    return text if len(text) <= TRACE_CHARACTERS else f"...{text[-TRACE_CHARACTERS:]}"
