"""The turns that the threads of a worker take."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.runs.tasks import DeviceLock
from tests.waiting import wait_for


def test_turns_come_in_the_order_of_asking() -> None:
    turn, order = DeviceLock(), list[int]()

    def take(number: int) -> None:
        with turn.take(time.perf_counter()):
            order.append(number)

    threads = []
    with turn.take(time.perf_counter()):
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            wait_for(lambda: len(turn._line) == len(threads) + 1)
        assert not order
    for thread in threads:
        thread.join(timeout=10)
    assert order == [0, 1, 2, 3, 4]


def test_an_error_ends_the_turn_and_idle_time_counts_from_there() -> None:
    turn = DeviceLock()
    with pytest.raises(ValueError, match="broken"), turn.take(time.perf_counter()):
        raise ValueError("broken")
    asked = time.perf_counter()
    time.sleep(0.05)
    with turn.take(asked - 100) as idle_s:
        assert 0.05 <= idle_s < 50
