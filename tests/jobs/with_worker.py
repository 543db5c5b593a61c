"""``python -m tests.jobs.with_worker NAME COMMAND...``: a command whose workers are of a class of tests.workers."""

from __future__ import annotations

import sys

import pipeline.runs.execute
import tests.workers
from jobs.cli import main

if __name__ == "__main__":
    pipeline.runs.execute.TaskWorker = getattr(tests.workers, sys.argv.pop(1))  # type: ignore[misc]
    main()
