"""One driver at a time where no kernel can say who is alive: a lease that its holder renews.

A driver writes an object of its own into the folder of leases and then lists the folder. If no other is there it holds
the lock; else it takes its own away again. Listings of S3 and Google's store show every write that was finished before
them, so of two drivers at least one sees the other; both may step back, both never go on. (A conditional PUT would do
the same in one request, but not every S3 server has it, and pyarrow has no call for it.)

The holder writes its lease again every ``PULSE_S``. A driver that finds another's lease waits until either it is
renewed (its owner lives: refused) or it is ``EXPIRY_S`` old (its owner is dead: removed). Ages are differences of the
store's own times, so clocks of nodes may be wrong. A holder whose lease was taken away (it was suspended for longer
than that) stops. Were two ever at work together, it would cost time only: shards are whole, and the same bits.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from pipeline.base.errors import CollapseError, FolderLockedError

PULSE_S = 5.0
"""Seconds between two renewals; a second driver is refused within about as many."""

SIGNATURE_BYTES = 4096
"""Most bytes of a lease: it says who holds it."""

EXPIRY_S = 30.0
"""Age of a lease whose owner is dead; so long a new driver waits at most."""


class LeaseStore(Protocol):
    """What a lease needs of a store."""

    def place(self, name: str) -> str: ...
    def read(self, name: str, most_bytes: int) -> bytes | None: ...
    def write(self, name: str, data: bytes) -> None: ...
    def remove(self, name: str) -> None: ...
    def stamps(self, folder: str) -> dict[str, float]: ...


@contextmanager
def hold(shelf: LeaseStore, folder: str) -> Iterator[None]:
    """Holds the lease in ``folder`` for the length of the block; FolderLockedError names the other holder.

    If it is lost within the block, the main thread is interrupted there and FolderLockedError raised.
    """
    name = f"{folder}/{secrets.token_hex(8)}"
    _acquire(shelf, folder, name)
    with _interrupt() as interrupt:
        yield from _held(shelf, folder, name, interrupt)


@contextmanager
def _interrupt() -> Iterator[int]:
    """The signal that raises KeyboardInterrupt in the main thread.

    A shell that starts a command in the background may have it ignore SIGINT; another signal serves there.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield signal.SIGINT
        return
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    try:
        yield signal.SIGUSR2
    finally:
        signal.signal(signal.SIGUSR2, before)


def _held(shelf: LeaseStore, folder: str, name: str, interrupt: int) -> Iterator[None]:
    done, lost = threading.Event(), threading.Event()
    interrupts = threading.current_thread() is threading.main_thread()

    def renew() -> None:
        while not done.wait(PULSE_S):
            with suppress(CollapseError):  # the store is away: for others too, or they find the lease expired
                if name.rpartition("/")[2] not in shelf.stamps(folder):
                    lost.set()
                    if interrupts and not done.is_set():
                        signal.pthread_kill(threading.main_thread().ident or 0, interrupt)
                    return
                shelf.write(name, _signature())

    pulse = threading.Thread(target=renew, name="lease", daemon=True)
    pulse.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise _taken_over(shelf) from None
    finally:
        done.set()
        pulse.join()
        with suppress(CollapseError):  # it runs out by itself
            shelf.remove(name)
    if lost.is_set():
        raise _taken_over(shelf)


def _acquire(shelf: LeaseStore, folder: str, name: str) -> None:
    seen: dict[str, float] = {}
    told = False
    while True:
        shelf.write(name, _signature())
        stamps = shelf.stamps(folder)
        now = stamps.pop(name.rpartition("/")[2], max(stamps.values(), default=0.0))
        alive = {other: stamp for other, stamp in stamps.items() if now - stamp <= EXPIRY_S}
        for other in stamps.keys() - alive.keys():
            shelf.remove(f"{folder}/{other}")
        if not alive:
            return
        shelf.remove(name)
        for other, stamp in alive.items():
            if stamp > seen.setdefault(other, stamp):
                holder = (shelf.read(f"{folder}/{other}", SIGNATURE_BYTES) or b"another process").decode(
                    errors="replace"
                )
                raise FolderLockedError(
                    f"{shelf.place('')} is in use by {holder[:200]}: wait for it to finish, stop it, or choose "
                    "another --out"
                )
        if not told:
            told = True
            logging.getLogger(__name__).warning(
                "%s is held by another driver, or was by one that is gone: waiting %g s at most to see which",
                shelf.place(""), EXPIRY_S + PULSE_S,
            )  # fmt: skip
        time.sleep(PULSE_S / 2 * random.uniform(0.5, 1.0))


def _signature() -> bytes:
    return f"process {os.getpid()} on {socket.gethostname()}".encode()


def _taken_over(shelf: LeaseStore) -> FolderLockedError:
    return FolderLockedError(
        f"{shelf.place('')}: this driver did not renew its lock in time and another took over; run the same command "
        "again once that has ended"
    )
