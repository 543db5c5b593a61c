"""The verdicts of the training-time monitor in an output folder."""

from __future__ import annotations

from pipeline.runs.shard_schema import Kind
from pipeline.store import Store

VERDICT_BYTES = 2**30
"""Largest file of verdicts that is read, bytes."""


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
