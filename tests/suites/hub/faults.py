"""What can go wrong at the hub of the tests, one fault at a time."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass


@dataclass
class Fault:
    """Answers of one kind, for files of one revision, so many times."""

    kind: str
    """``status``, ``cut`` (the body stops half-way), ``short`` (the file is shorter than listed), ``corrupt``,
    ``slow``, ``stuck`` (the body stops half-way and the connection stays), ``gone`` (no such revision)."""
    revision: str
    """The branch; its commit at the time the fault is made."""
    file: str = "model.safetensors"
    """The file, or ``tree`` for the listing of its files."""
    times: int | None = None
    """None = for ever."""
    status: int = 503

    commit: str = ""


class Faults:
    """The faults of a server; any thread may ask."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(dataclasses.replace(fault))

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def next(self, commit: str, file: str) -> Fault | None:
        """The fault that this request meets, used up by it."""
        with self._lock:
            for fault in self._faults:
                if (fault.commit, fault.file) == (commit, file) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None
