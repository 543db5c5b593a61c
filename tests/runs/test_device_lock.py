"""The turns that the threads of a worker take."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.runs.tasks import DeviceLock
from tests.waiting import wait_for


def test_turns_come_in_the_order_of_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, order = list[object](), list[int]()

    class Noted(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.append(None)  # it holds the lock: who comes later waits behind it
            return super().wait(timeout)

    monkeypatch.setattr(threading, "Condition", Noted)
    turn = DeviceLock()
    monkeypatch.undo()

    def take(number: int) -> None:
        with turn.take(time.perf_counter()):
            order.append(number)

    threads = []
    with turn.take(time.perf_counter()):
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            wait_for(lambda: len(waiting) == len(threads))
        assert not order
    for thread in threads:
        thread.join(timeout=120)
    assert order == [0, 1, 2, 3, 4]


def test_an_error_ends_the_turn_and_idle_time_counts_from_there() -> None:
    turn = DeviceLock()
    with pytest.raises(ValueError, match="broken"), turn.take(time.perf_counter()):
        raise ValueError("broken")
    asked = time.perf_counter()
    time.sleep(0.05)
    with turn.take(asked - 100) as idle_s:
        assert 0.05 <= idle_s < 50
