"""``python -m tests.jobs.with_worker NAME COMMAND...``: a command whose workers are of a class of tests.workers.

It can be interrupted, whatever started the tests: a shell's background command ignores SIGINT, and so would it.
"""

from __future__ import annotations

import signal
import sys

import pipeline.runs.execute
import tests.workers
from jobs.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pipeline.runs.execute.TaskWorker = getattr(tests.workers, sys.argv.pop(1))  # type: ignore[misc]
    main()
