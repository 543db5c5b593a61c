"""SIGTERM as a question that a loop can ask, so that it stops where it can continue from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM only makes the function that it gives return True.

    Afterwards a SIGTERM that came is delivered to whoever handled it before, so the process still ends. In a thread
    other than the main one, where Python handles no signals, the answer is always False.
    """
    came = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(*_: object) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)
