"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 120
) -> None:
    """Returns once ``condition`` holds; fails after ``seconds``, or where ``process`` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
