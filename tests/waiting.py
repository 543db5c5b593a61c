"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tests.forked import Forked


def wait_for(
    condition: Callable[[], bool],
    process: subprocess.Popen[str] | Forked | None = None,
    seconds: float = 120,
) -> None:
    """Returns once ``condition`` holds; fails after ``seconds``, or where ``process`` ends, with what that said.

    Looking takes a fifth of the time at most, so that it does not keep what is waited for from its core.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        took = time.monotonic() - began
        if time.monotonic() > deadline and process is not None:
            process.kill()
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it has ended with {process.returncode}: {process.communicate(timeout=30)}")
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(min(max(0.02, 4 * took), 1))
