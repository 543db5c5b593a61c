"""Files of training runs beside their shards: the states of unfinished ones, and the verdicts of the monitor."""

from __future__ import annotations

import re

from pipeline.runs.shard_schema import Kind
from pipeline.store import Store

STATE_BYTES = 2**36
"""Largest state that is read, bytes."""
VERDICT_BYTES = 2**30
"""Largest file of verdicts that is read, bytes."""
_STATE_NAME = re.compile(r"(?P<key>.+)-step(?P<updates>\d+)\.pt")


class StateFiles:
    """The latest state of each unfinished run of one kind of work."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store = store
        self.folder = f"state/{kind.name}"

    def write(self, key: str, updates: int, data: bytes) -> None:
        """Save the state of run ``key`` after ``updates`` updates and delete its older state.

        The number is in the file name, so that one listing shows the progress of every run. Makes the folder, for a
        task that runs without a driver.
        """
        self._store.make_folder(self.folder)
        self._store.write(self._state(key, updates), data)
        self._remove_states(key, kept=updates)

    def read(self, key: str) -> bytes | None:
        """The saved state, the latest if a killed writer left two; None if there is none."""
        updates = self.updates_made().get(key)
        return None if updates is None else self._store.read(self._state(key, updates), STATE_BYTES)

    def remove(self, key: str) -> None:
        self._remove_states(key, kept=None)

    def updates_made(self) -> dict[str, int]:
        """Key -> updates at the saved state of each unfinished run."""
        made: dict[str, int] = {}
        for key, updates in self._list_states():
            made[key] = max(updates, made.get(key, 0))
        return made

    def _remove_states(self, key: str, kept: int | None) -> None:
        for there, updates in self._list_states():
            if there == key and updates != kept:
                self._store.remove(self._state(key, updates))

    def _list_states(self) -> list[tuple[str, int]]:
        found = [_STATE_NAME.fullmatch(name) for name in self._store.names(self.folder, ".pt")]
        return [(each["key"], int(each["updates"])) for each in found if each]

    def _state(self, key: str, updates: int) -> str:
        return f"{self.folder}/{key}-step{updates}.pt"


class VerdictFiles:
    """JSON lines of each monitored run of one kind of work, one line per observation."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store = store
        self.folder = f"monitor/{kind.name}"

    def write(self, key: str, data: bytes) -> None:
        """Replace the lines of run ``key``. Makes the folder, for a task that runs without a driver."""
        self._store.make_folder(self.folder)
        self._store.write(f"{self.folder}/{key}.jsonl", data)

    def read(self, key: str) -> bytes | None:
        """The lines of run ``key``; None if it was not monitored."""
        return self._store.read(f"{self.folder}/{key}.jsonl", VERDICT_BYTES)
