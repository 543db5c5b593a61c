"""The output folder of a run: the only package that knows its paths and the schemas of its shards.

::

    DIR/run.json                           the audit's plan: suite, checkpoints, settings, fingerprint
    DIR/tokens.npy                         its evaluation tokens, int64 (batches, batch_size, seq_len)
    DIR/shards/audit/step000001000.arrow   one checkpoint, one row per variant
    DIR/failures/audit/step000001000.json  why a checkpoint has no shard (removed once it has one)
    DIR/calibration/                       calibration tokens (``pipeline.runs.calibration_tokens``)
    DIR/fork.json fork_tokens.npy fork_train.npy   the same of a fork experiment, and its training tokens
    DIR/fork_train.json                    their text and tokenizer, so that a rerun can use them again
    DIR/shards/fork/oli-seed2.arrow        one run, one row per probe, variant and set of weights
    DIR/state/fork/oli-seed2-step1500.pt   state of an unfinished run (removed once it has a shard)
    DIR/tables/ report.json report.html fork.html figures/   made from them by the reduction
    DIR/events.jsonl                       what happened when, one JSON object per line (``pipeline.base.event_log``)
    DIR/.lock                              held by the one driver of the folder (a folder of leases in an object store)
    DIR/.tmp/                              unfinished uploads, in an object store only

DIR is a local folder or a URL (``pipeline.store``). A shard is done when its file is there and sealed
(``pipeline.base.files``); there is no marker and no database.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import ShardError, UnreadableError, UsageError
from pipeline.base.event_log import AppendedFile, EventLog, RewrittenFile, parse_events
from pipeline.base.files import JSON_BYTES, SHARD_BYTES, parse_checked, parse_json, with_checksum
from pipeline.base.json_fields import Fields
from pipeline.corpus import tokens_sha256
from pipeline.measurements import installed
from pipeline.runs.plans import WorkPlan
from pipeline.runs.results import REPORT_SHAPE, SCHEDULES_SHAPE, checked
from pipeline.runs.shard import Origin, Shard, ShardTask, shard_from, shard_table
from pipeline.runs.shard_schema import AUDIT, Kind
from pipeline.store import LocalStore, Store, open_store

TABLES, FIGURES = "tables", "figures"
REPORT, SCHEDULES = "report.json", "tables/schedules.json"
EVENTS = "events.jsonl"
TRAIN_TOKENS, TRAIN_NOTE = "fork_train.npy", "fork_train.json"

EVENTS_BYTES, TOKENS_BYTES, RESULT_BYTES, STATE_BYTES = 2**29, 2**31, 2**32, 2**36
"""Largest files that are read, bytes: event log, evaluation tokens, table or page, a run's state or training
tokens."""

_STATE_NAME = re.compile(r"(?P<key>.+)-step(?P<updates>\d+)\.pt")

READ_AHEAD = 8
"""Batches of shards, each as many as the store reads at once, that are read ahead."""


class RunFolder:
    """Reads and writes the files of one kind of work in an output folder. Making one touches nothing."""

    def __init__(self, location: str | Path, kind: Kind = AUDIT) -> None:
        """``location``: a path or URL (``pipeline.store``)."""
        self.kind = kind
        self._store: Store = open_store(location)
        self._shards = f"shards/{kind.name}"
        self._failures = f"failures/{kind.name}"
        self._states = f"state/{kind.name}"

    def of(self, kind: Kind) -> RunFolder:
        """The same folder for another kind of work."""
        return RunFolder(self.location, kind)

    def __str__(self) -> str:
        return self.place("")

    @property
    def location(self) -> str:
        """Absolute path or URL, with which another process opens the same folder."""
        return self._store.location

    def place(self, name: str) -> str:
        """Path or URL of the file or folder ``name``, for messages."""
        return self._store.place(name)

    def check(self) -> None:
        """Raise early if nothing can be written there, such as in a missing bucket; creates nothing."""
        self._store.check()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Context manager: make the folder and lock it for one driver."""
        self._store.make_folder("")
        with self._store.lock():
            yield

    def prepare(self) -> None:
        """Make the folders of shards and failures, and remove temporary files of killed writers."""
        folders = (self._shards, self._failures, self._states)
        for folder in folders:
            self._store.make_folder(folder)
        self._store.sweep(*folders, "")

    def event_log(self) -> EventLog:
        """The event log of this folder; use it only while holding the lock."""
        if isinstance(self._store, LocalStore):
            return EventLog(AppendedFile(Path(self._store.place(EVENTS))))
        return EventLog(
            RewrittenFile(
                lambda: self._store.read(EVENTS, EVENTS_BYTES), lambda data: self._store.write(EVENTS, data)
            )
        )

    def read_events(self) -> list[dict[str, Any]] | None:
        """Every event of the runs in this folder; None if none has started."""
        data = self._store.read(EVENTS, EVENTS_BYTES)
        return None if data is None else parse_events(data)

    # --- plans and tokens ---------------------------------------------------------------------------------

    def write_plan(self, plan: WorkPlan) -> None:
        text = json.dumps(dataclasses.asdict(plan), indent=1, allow_nan=False)
        self._store.write(self.kind.plan_file, text.encode())

    def has_plan(self) -> bool:
        return self._store.exists(self.kind.plan_file)

    def read_plan(self) -> Any:
        """The plan of the run in this folder; raises UsageError if there is none."""
        try:
            data = self._store.read(self.kind.plan_file, JSON_BYTES)
        except UnreadableError as error:
            raise UsageError(str(error)) from error
        if data is None:
            raise UsageError(
                f"no run in {self}: wanted a folder that `int4-collapse {self.kind.name}` wrote "
                f"({self.kind.plan_file} in it)"
            )
        return self.kind.plan_type.from_fields(
            self._object(self.kind.plan_file, data, self.kind.name), self.kind.spec_type
        )

    def _object(self, name: str, data: bytes, command: str) -> Fields:
        """Parse the JSON object ``data`` of the file ``name``; a UsageError names the ``command`` that makes it."""

        def broken(what: str) -> UsageError:
            return UsageError(
                f"{self.place(name)} is damaged: {what}; run `int4-collapse {command}` again to rewrite it"
            )

        try:
            return Fields(parse_json(data), broken)
        except ValueError as error:
            raise broken(f"not readable JSON ({error})") from error

    def write_tokens(self, tokens: np.ndarray) -> None:
        """Writes the evaluation tokens."""
        self._write_array(self.kind.tokens_file, tokens)

    def read_tokens(self) -> np.ndarray:
        return self._read_array(self.kind.tokens_file, TOKENS_BYTES)

    def write_training_tokens(self, tokens: np.ndarray, note: dict[str, Any] | None = None) -> None:
        """Writes the 1-D training tokens of a fork experiment.

        ``note``: their hash as ``tokens_sha256`` and, if known, their text and tokenizer; see
        :meth:`holds_training_tokens` and :meth:`kept_training_tokens`.
        """
        self._store.remove(TRAIN_NOTE)  # a note never lies beside other tokens
        self._write_array(TRAIN_TOKENS, tokens)
        if note is not None:
            self.write_train_note(note)

    def write_train_note(self, note: dict[str, Any]) -> None:
        """Write the note on the existing training tokens, unless it is already correct."""
        if self._train_note() != note:
            self._store.write(TRAIN_NOTE, json.dumps(note, indent=1).encode())

    def read_training_tokens(self) -> np.ndarray:
        return self._read_array(TRAIN_TOKENS, STATE_BYTES)

    def kept_training_tokens(self, made_of: dict[str, Any]) -> np.ndarray | None:
        """The intact training tokens of an earlier call if they come from the same text and tokenizer; else None."""
        note = self._train_note()
        sha256 = note.pop("tokens_sha256", None)
        return self._checked_training_tokens(sha256) if note == made_of else None

    def holds_training_tokens(self, sha256: str, *, checked: bool = False) -> bool:
        """Whether the training tokens of an earlier call are intact and hash to ``sha256``.

        Their note is read first. It is trusted if it has been ``checked`` before, as :meth:`kept_training_tokens`
        does; otherwise the tokens are read.
        """
        if self._train_note().get("tokens_sha256") != sha256:
            return False
        return checked or self._checked_training_tokens(sha256) is not None

    def _train_note(self) -> dict[str, Any]:
        """The note on the training tokens; empty if it is missing or damaged."""
        try:
            note = parse_json(self._store.read(TRAIN_NOTE, JSON_BYTES) or b"{}")
        except (ValueError, UnreadableError):
            return {}
        return note if isinstance(note, dict) else {}

    def _checked_training_tokens(self, sha256: Any) -> np.ndarray | None:
        try:
            tokens = self.read_training_tokens()
        except UsageError:
            return None
        return tokens if tokens_sha256(tokens) == sha256 else None

    def _write_array(self, name: str, array: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        self._store.write(name, buffer.getvalue())

    def _read_array(self, name: str, most_bytes: int) -> np.ndarray:
        try:
            data = self._store.read(name, most_bytes)
            if data is None:
                raise FileNotFoundError(errno.ENOENT, "not there")
            array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        except (UnreadableError, FileNotFoundError, ValueError, EOFError) as error:
            raise UsageError(
                f"{self.place(name)} cannot be read ({error}): run the {self.kind.name} again to rewrite it"
            ) from (
                error.__cause__ or error
            )  # the system's own error, whose number shows whether a retry helps
        return array

    # --- shards -----------------------------------------------------------------------------------------

    def shard_keys(self) -> list[str]:
        """Keys of the shard files; :meth:`read_shard` checks whether they are valid."""
        return [name.removesuffix(".arrow") for name in self._store.names(self._shards, ".arrow")]

    def has_shard(self, key: str) -> bool:
        """Whether the shard file exists, valid or not."""
        return self._store.exists(self._shard(key))

    def _shard(self, key: str) -> str:
        return f"{self._shards}/{key}.arrow"

    def write_shard(
        self,
        task: ShardTask,
        rows: list[dict[str, Any]],
        origin: Origin,
        there: Shard | None = None,
    ) -> None:
        """Write the shard of ``task`` and remove its failure record.

        ``there``: the former shard, whose columns are kept.
        """
        names = dict.fromkeys([*task.measurements, *chain(*origin.measured.values())])
        columns = set[str]().union(*rows)
        schema = self.kind.schema(installed(names), None if there is None else there.table.schema, columns)
        table = shard_table(schema, task, rows, origin)
        self._store.write(self._shard(task.key), with_checksum(table))
        self._store.remove(self._failure(task.key))

    def read_shard(self, key: str) -> Shard:
        """Read the shard ``key`` and check every byte; raises ShardError if it is not valid."""
        path = self.place(self._shard(key))
        try:
            data = self._store.read(self._shard(key), SHARD_BYTES)
        except UnreadableError as error:
            raise ShardError(str(error)) from error
        if data is None:
            raise ShardError(f"{path} is not there")
        return shard_from(parse_checked(data, path), self.kind, key, path)

    def read_shards(self, keys: Sequence[str]) -> Iterator[Shard | ShardError]:
        """For each of ``keys`` in order, the shard or error of :meth:`read_shard`; reads in parallel."""
        readers = self._store.readers
        if readers == 1:
            yield from map(self._shard_or_error, keys)
            return
        with ThreadPoolExecutor(readers) as pool:  # in batches, because shards that are read wait in memory
            for start in range(0, len(keys), READ_AHEAD * readers):
                yield from pool.map(self._shard_or_error, keys[start : start + READ_AHEAD * readers])

    def require_shards(self, keys: Sequence[str]) -> list[Shard]:
        """Read all of ``keys``; raises ShardError if one is not valid."""
        found: list[Shard] = []
        for each in self.read_shards(keys):
            if isinstance(each, ShardError):
                raise each
            found.append(each)
        return found

    def _shard_or_error(self, key: str) -> Shard | ShardError:
        try:
            return self.read_shard(key)
        except ShardError as error:
            return error

    def remove_shard(self, key: str) -> None:
        self._store.remove(self._shard(key))

    # --- unfinished runs --------------------------------------------------------------------------------

    def write_state(self, key: str, updates: int, data: bytes) -> None:
        """Save the state of run ``key`` after ``updates`` updates and delete its older state.

        The number is in the file name, so that one listing shows the progress of every run. Makes the folder, for a
        task that runs without a driver.
        """
        self._store.make_folder(self._states)
        self._store.write(self._state(key, updates), data)
        self._remove_states(key, kept=updates)

    def read_state(self, key: str) -> bytes | None:
        """The saved state, the latest if a killed writer left two; None if there is none."""
        updates = self.updates_made().get(key)
        return None if updates is None else self._store.read(self._state(key, updates), STATE_BYTES)

    def remove_state(self, key: str) -> None:
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
        found = [_STATE_NAME.fullmatch(name) for name in self._store.names(self._states, ".pt")]
        return [(each["key"], int(each["updates"])) for each in found if each]

    def _state(self, key: str, updates: int) -> str:
        return f"{self._states}/{key}-step{updates}.pt"

    # --- failures ---------------------------------------------------------------------------------------

    def write_failure(self, key: str, reason: str, worker_deaths: int, trace: str = "") -> None:
        """Record why ``key`` has no shard: ``reason`` in a sentence, ``trace`` as Python's traceback."""
        record = {"key": key, "reason": reason, "worker_deaths": worker_deaths, "traceback": trace}
        self._store.write(self._failure(key), json.dumps(record, indent=1).encode())

    def read_failures(self) -> dict[str, str]:
        """Key -> reason of every recorded failure; for a damaged record the reason says so."""
        reasons: dict[str, str] = {}
        for name in self._store.names(self._failures, ".json"):
            key = name.removesuffix(".json")
            try:
                data = self._store.read(self._failure(key), JSON_BYTES) or b""
                reasons[key] = self._object(self._failure(key), data, self.kind.name).need("reason", str)
            except (UsageError, UnreadableError) as error:
                reasons[key] = f"unknown: {error}"
        return reasons

    def _failure(self, key: str) -> str:
        return f"{self._failures}/{key}.json"

    # --- results of the reduction -----------------------------------------------------------------------

    def write_table(self, name: str, data: bytes) -> None:
        """Writes ``data`` at ``tables/name``."""
        self._write_result(f"{TABLES}/{name}", data)

    def write_figure(self, name: str, data: bytes) -> None:
        """Writes ``data`` at ``figures/name``."""
        self._write_result(f"{FIGURES}/{name}", data)

    def write_result(self, name: str, text: str) -> None:
        """Writes ``report.json``, ``tables/schedules.json`` or an HTML page."""
        self._write_result(name, text.encode())

    def read_result(self, name: str) -> bytes | None:
        """Contents of a result such as ``report.json`` or ``tables/trajectory.parquet``; None if it does not exist."""
        return self._store.read(name, RESULT_BYTES)

    def read_report(self) -> dict[str, Any] | None:
        """``report.json`` with checked types; None if it does not exist."""
        return self._read_shaped(REPORT, REPORT_SHAPE)

    def read_schedules(self) -> dict[str, Any] | None:
        """``tables/schedules.json`` with checked types; None if it does not exist."""
        return self._read_shaped(SCHEDULES, SCHEDULES_SHAPE)

    def _read_shaped(self, name: str, shape: dict[str, Any]) -> dict[str, Any] | None:
        try:
            data = self._store.read(name, JSON_BYTES)
        except UnreadableError as error:
            raise UsageError(str(error)) from error
        return None if data is None else checked(self._object(name, data, f"reduce {self}"), shape)

    def has_result(self, name: str) -> bool:
        """Whether the result exists."""
        return self._store.exists(name)

    def _write_result(self, name: str, data: bytes) -> None:
        self._store.make_folder(name.rpartition("/")[0])
        self._store.write(name, data)
