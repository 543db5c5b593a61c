"""Handle SIGTERM as a flag that a loop checks, or as an exception, so that work stops where it can resume."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Context manager: SIGTERM only makes the function that it gives return True.

    Afterwards a received SIGTERM is delivered to its former handler, so the process still ends. Outside the main
    thread, where Python handles no signals, the function always returns False.
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


@contextmanager
def exit_on_termination() -> Iterator[None]:
    """Context manager: SIGTERM and SIGHUP raise SystemExit(128 + number).

    In the main thread only. A SIGHUP that is ignored (``nohup``) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signals = [signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signals.remove(signal.SIGHUP)
    before = [signal.signal(each, leave) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
