"""What can go wrong on the way to an object store, one fault at a time."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass


@dataclass
class Fault:
    """What happens to requests whose method and target match, so many times."""

    kind: str
    """``status`` (the store is not asked), ``cut request`` (the connection ends half-way through the request's body,
    which the store never sees whole), ``cut reply`` (the store does as asked, half of its answer arrives), ``hold``
    (nothing happens until the faults are cleared; the connection then ends, and the store was not asked)."""
    method: str
    target: str = ""
    """Part of the path or query."""
    times: int | None = None
    """None = for ever."""
    status: int = 500
    passed: int = 0
    """How many such requests pass before the first that meets it."""


class Faults:
    """The faults of a way, and what went over it; any thread may ask."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._cleared = threading.Event()
        self.held = 0
        """Requests that wait, or have waited, since the faults were cleared."""
        self.requests: list[tuple[str, str]] = []
        """Method and target of every request, in order."""

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += [dataclasses.replace(fault) for fault in faults]

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
            self.requests.clear()
            self.held = 0
            self._cleared.set()
            self._cleared = threading.Event()

    def next(self, method: str, target: str) -> Fault | None:
        """The fault that this request meets, used up by it."""
        with self._lock:
            self.requests.append((method, target))
            for fault in self._faults:
                if fault.method == method and fault.target in target and fault.times != 0:
                    if fault.passed:
                        fault.passed -= 1
                        continue
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def hold(self) -> None:
        """Returns when the faults are cleared."""
        with self._lock:
            self.held += 1
            cleared = self._cleared
        cleared.wait()
