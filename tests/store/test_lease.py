"""Leases: the dead do not keep them, the living are refused by name, whoever lost one stops."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from pipeline.base.errors import FolderLockedError, OutputError
from pipeline.store import lease
from pipeline.store.lease import hold
from tests.waiting import wait_for


class Memory:
    """A shelf whose clock is a day behind this machine's."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, float]] = {}
        self.away = False

    def place(self, name: str) -> str:
        return f"memory://{name}"

    def read(self, name: str, most_bytes: int) -> bytes | None:
        return self.files[name][0] if name in self.files else None

    def write(self, name: str, data: bytes) -> None:
        if self.away:
            raise OutputError("away")
        self.files[name] = (data, time.monotonic() - 86_400)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def stamps(self, folder: str) -> dict[str, float]:
        if self.away:
            raise OutputError("away")
        return {name.removeprefix(f"{folder}/"): stamp for name, (_, stamp) in self.files.items()}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(lease, "PULSE_S", 0.05)
    return Memory()


def test_a_lease_is_renewed_while_held_and_gone_afterwards(shelf: Memory) -> None:
    with hold(shelf, "lock"):
        first = shelf.stamps("lock")
        wait_for(lambda: shelf.stamps("lock") != first)
        second = shelf.stamps("lock")
        assert first.keys() == second.keys()
        assert list(second.values()) > list(first.values())
    assert shelf.files == {}


def test_what_a_dead_driver_left_is_waited_for_and_then_taken(
    shelf: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_S", 0.3)
    shelf.write("lock/dead", b"process 1 on elsewhere")
    start = time.monotonic()
    with hold(shelf, "lock"):
        assert "lock/dead" not in shelf.files
    assert time.monotonic() - start > 0.2


def test_a_living_holder_is_named(shelf: Memory) -> None:
    with hold(shelf, "lock"), pytest.raises(FolderLockedError, match=f"by process {os.getpid()} on"):  # noqa: SIM117
        with hold(shelf, "lock"):
            pass


def test_of_many_at_once_no_two_hold_it(shelf: Memory) -> None:
    inside, most, held = 0, 0, 0
    counting = threading.Lock()

    def enter() -> None:
        nonlocal inside, most, held
        try:
            with hold(shelf, "lock"):
                with counting:
                    inside, held = inside + 1, held + 1
                    most = max(most, inside)
                time.sleep(0.1)
                with counting:
                    inside -= 1
        except FolderLockedError:
            return

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 1
    with hold(shelf, "lock"):
        pass


@pytest.mark.parametrize("ignored", [False, True], ids=["foreground", "background of a shell"])
def test_whoever_lost_it_is_stopped_in_whatever_it_does(
    shelf: Memory, ignored: bool, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(FolderLockedError, match="another took over"), hold(shelf, "lock"):  # noqa: PT012
        shelf.files.clear()  # as one who found it expired does
        time.sleep(200)
        pytest.fail("it went on")


def test_a_store_that_is_away_for_a_while_costs_nothing(shelf: Memory) -> None:
    with hold(shelf, "lock"):
        shelf.away = True
        time.sleep(0.2)
        shelf.away = False
        time.sleep(0.2)
        assert len(shelf.files) == 1


def test_an_interrupt_of_ones_own_is_passed_on(shelf: Memory) -> None:
    with pytest.raises(KeyboardInterrupt), hold(shelf, "lock"):
        raise KeyboardInterrupt
