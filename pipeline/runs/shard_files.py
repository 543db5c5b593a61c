"""The shards of one kind of work in an output folder, and the records of tasks that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from pipeline.base.errors import ShardError, UnreadableError, UsageError
from pipeline.base.files import JSON_BYTES, SHARD_BYTES, parse_checked, with_checksum
from pipeline.measurements import installed
from pipeline.runs.json_record import json_record
from pipeline.runs.shard import Origin, Shard, ShardTask, shard_from, shard_table
from pipeline.runs.shard_schema import Kind
from pipeline.store import Store

READ_AHEAD = 8
"""Batches of shards, each as many as the store reads at once, that are read ahead."""


@dataclass(frozen=True)
class FailureRecord:
    """Why a task has no shard."""

    reason: str
    """In a sentence."""
    key: str = ""
    worker_deaths: int = 0
    traceback: str = ""


class FailureRecords:
    """Why tasks of one kind of work have no shard, one JSON file each."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._store, self._kind = store, kind
        self.folder = f"failures/{kind.name}"

    def write(self, key: str, reason: str, worker_deaths: int, trace: str = "") -> None:
        """Record why ``key`` has no shard: ``reason`` in a sentence, ``trace`` as Python's traceback."""
        record = FailureRecord(reason, key, worker_deaths, trace)
        self._store.write(self._failure(key), json.dumps(asdict(record), indent=1).encode())

    def read(self) -> dict[str, str]:
        """Key -> reason of every recorded failure; for a damaged record the reason says so."""
        reasons: dict[str, str] = {}
        for name in self._store.names(self.folder, ".json"):
            key = name.removesuffix(".json")
            try:
                data = self._store.read(self._failure(key), JSON_BYTES) or b""
                place = self._store.place(self._failure(key))
                reasons[key] = json_record(FailureRecord, place, data, self._kind.name).reason
            except (UsageError, UnreadableError) as error:
                reasons[key] = f"unknown: {error}"
        return reasons

    def _failure(self, key: str) -> str:
        return f"{self.folder}/{key}.json"

    def remove(self, key: str) -> None:
        self._store.remove(self._failure(key))


class ShardFiles:
    """The shards of one kind of work, one Arrow file each."""

    def __init__(self, store: Store, kind: Kind, failures: FailureRecords) -> None:
        self._store, self._kind, self._failures = store, kind, failures
        self.folder = f"shards/{kind.name}"

    def list_keys(self) -> list[str]:
        """Keys of the shard files; :meth:`read` checks whether they are valid."""
        return [name.removesuffix(".arrow") for name in self._store.names(self.folder, ".arrow")]

    def has(self, key: str) -> bool:
        """Whether the shard file exists, valid or not."""
        return self._store.exists(self._shard(key))

    def _shard(self, key: str) -> str:
        return f"{self.folder}/{key}.arrow"

    def write(
        self, task: ShardTask, rows: list[dict[str, Any]], origin: Origin, there: Shard | None = None
    ) -> None:
        """Write the shard of ``task`` and remove its failure record.

        ``there``: the former shard, whose columns are kept.
        """
        names = dict.fromkeys([*task.measurements, *chain(*origin.measured.values())])
        columns = set[str]().union(*rows)
        schema = self._kind.schema(installed(names), None if there is None else there.table.schema, columns)
        table = shard_table(schema, task, rows, origin)
        self._store.write(self._shard(task.key), with_checksum(table))
        self._failures.remove(task.key)

    def read(self, key: str) -> Shard:
        """Read the shard ``key`` and check every byte; raises ShardError if it is not valid."""
        path = self._store.place(self._shard(key))
        try:
            data = self._store.read(self._shard(key), SHARD_BYTES)
        except UnreadableError as error:
            raise ShardError(str(error)) from error
        if data is None:
            raise ShardError(f"{path} is not there")
        return shard_from(parse_checked(data, path), self._kind, key, path)

    def read_many(self, keys: Sequence[str]) -> Iterator[Shard | ShardError]:
        """For each of ``keys`` in order, the shard or error of :meth:`read`; reads in parallel."""
        readers = self._store.readers
        if readers == 1:
            yield from map(self._shard_or_error, keys)
            return
        with ThreadPoolExecutor(readers) as pool:  # in batches, because shards that are read wait in memory
            for start in range(0, len(keys), READ_AHEAD * readers):
                yield from pool.map(self._shard_or_error, keys[start : start + READ_AHEAD * readers])

    def require(self, keys: Sequence[str]) -> list[Shard]:
        """Read all of ``keys``; raises ShardError if one is not valid."""
        found: list[Shard] = []
        for each in self.read_many(keys):
            if isinstance(each, ShardError):
                raise each
            found.append(each)
        return found

    def _shard_or_error(self, key: str) -> Shard | ShardError:
        try:
            return self.read(key)
        except ShardError as error:
            return error

    def remove(self, key: str) -> None:
        self._store.remove(self._shard(key))
