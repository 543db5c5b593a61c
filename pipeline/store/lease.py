"""The lock of an object store: a lease that its holder renews.

A driver writes an object of its own into the folder of leases and then lists the folder. If the folder holds no
other lease, the driver has the lock; otherwise it removes its own. Listings of S3 and Google's store show every
write that was finished before them, so of two drivers at least one sees the other; both may give up, but never do
both continue. (A conditional PUT would do the same in one request, but not every S3 server has it, and pyarrow has
no call for it.)

The holder rewrites its lease every ``PULSE_S`` seconds. A driver that finds another lease waits until it is renewed
(its owner lives: the driver is refused) or ``EXPIRY_S`` seconds old (its owner is dead: the lease is removed). Ages
are differences of the store's own timestamps, so clocks of nodes may be wrong. A holder that has lost its lease (it
was suspended for longer) stops. Two drivers at once would only waste time: shards are written whole, with the same
bits.
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
from pipeline.store.interface import Store

PULSE_S = 5.0
"""Seconds between two renewals; a second driver is refused after about that time."""

SIGNATURE_BYTES = 4096
"""Largest lease that is read, bytes; it names its holder."""

EXPIRY_S = 30.0
"""Age in seconds at which a lease counts as dead, and longest wait of a new driver."""


class StampedStore(Store, Protocol):
    """A store with a clock."""

    def stamps(self, folder: str) -> dict[str, float]:
        """Name -> time of writing of each file in ``folder``, in seconds of the store's own clock."""


@contextmanager
def hold(store: StampedStore, folder: str) -> Iterator[None]:
    """Context manager: hold the lease in ``folder``; raises FolderLockedError, which names the other holder.

    If it is lost within the block, the main thread is interrupted and FolderLockedError raised.
    """
    name = f"{folder}/{secrets.token_hex(8)}"
    _acquire(store, folder, name)
    with _interrupt() as interrupt:
        yield from _held(store, folder, name, interrupt)


@contextmanager
def _interrupt() -> Iterator[int]:
    """The signal that raises KeyboardInterrupt in the main thread.

    A command that a shell starts in the background may ignore SIGINT; another signal is used then.
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


def _held(store: StampedStore, folder: str, name: str, interrupt: int) -> Iterator[None]:
    done, lost = threading.Event(), threading.Event()
    interrupts = threading.current_thread() is threading.main_thread()

    def renew() -> None:
        while not done.wait(PULSE_S):
            with suppress(CollapseError):  # the store is unreachable, for others too, or they find it expired
                if name.rpartition("/")[2] not in store.stamps(folder):
                    lost.set()
                    if interrupts and not done.is_set():
                        signal.pthread_kill(threading.main_thread().ident or 0, interrupt)
                    return
                store.write(name, _signature())

    pulse = threading.Thread(target=renew, name="lease", daemon=True)
    pulse.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise _taken_over(store) from None
    finally:
        done.set()
        pulse.join()
        with suppress(CollapseError):  # the lease expires by itself
            store.remove(name)
    if lost.is_set():
        raise _taken_over(store)


def _acquire(store: StampedStore, folder: str, name: str) -> None:
    seen: dict[str, float] = {}
    told = False
    while True:
        store.write(name, _signature())
        stamps = store.stamps(folder)
        now = stamps.pop(name.rpartition("/")[2], max(stamps.values(), default=0.0))
        alive = {other: stamp for other, stamp in stamps.items() if now - stamp <= EXPIRY_S}
        for other in stamps.keys() - alive.keys():
            store.remove(f"{folder}/{other}")
        if not alive:
            return
        store.remove(name)
        for other, stamp in alive.items():
            if stamp > seen.setdefault(other, stamp):
                signed = store.read(f"{folder}/{other}", SIGNATURE_BYTES) or b"another process"
                holder = signed.decode(errors="replace")[:200]
                raise FolderLockedError(
                    f"{store.place('')} is in use by {holder}: wait for it to finish, stop it, or choose another --out"
                )
        if not told:
            told = True
            logging.getLogger(__name__).warning(
                "%s is locked by a driver that may be dead: waiting up to %g s to find out",
                store.place(""), EXPIRY_S + PULSE_S,
            )  # fmt: skip
        time.sleep(PULSE_S / 2 * random.uniform(0.5, 1.0))


def _signature() -> bytes:
    return f"process {os.getpid()} on {socket.gethostname()}".encode()


def _taken_over(store: StampedStore) -> FolderLockedError:
    return FolderLockedError(
        f"{store.place('')}: this driver did not renew its lock in time and another took over; run the same command "
        "again once that has ended"
    )
