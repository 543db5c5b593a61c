"""Workers for tests of the driver, in a module of their own so that Ray's processes can import them."""

from __future__ import annotations

import os
import signal

from pipeline.spec import ProbeTask
from pipeline.worker import Outcome, TaskWorker


class PoisonWorker(TaskWorker):
    """Dies on step 3, does the others at once."""

    def __init__(self, threads: int) -> None:
        pass

    def run(self, task: ProbeTask) -> Outcome:
        if task.checkpoint.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(task.key)
