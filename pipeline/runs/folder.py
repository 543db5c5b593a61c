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
    DIR/monitor/fork/oli-seed2.jsonl       the monitor's verdicts on a run, one line per probe (``fork --monitor``)
    DIR/tables/ report.json report.html fork.html figures/   made from them by the reduction
    DIR/events.jsonl                       what happened when, one JSON object per line (``pipeline.base.event_log``)
    DIR/.lock                              held by the one driver of the folder (a folder of leases in an object store)
    DIR/.tmp/                              unfinished uploads, in an object store only

DIR is a local folder or a URL (``pipeline.store``). A shard is done when its file is there and sealed
(``pipeline.base.files``); there is no marker and no database.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.base.errors import UnreadableError, UsageError
from pipeline.base.event_log import AppendedFile, EventLog, LoggedEvent, RewrittenFile, parse_events
from pipeline.base.files import JSON_BYTES
from pipeline.base.json_files import checked
from pipeline.base.paths import nearest
from pipeline.runs.json_record import damaged, json_record
from pipeline.runs.plans import WorkPlan
from pipeline.runs.result_files import ResultFiles
from pipeline.runs.shard_files import FailureRecords, ShardFiles
from pipeline.runs.shard_schema import AUDIT, Kind
from pipeline.runs.state_files import StateFiles, VerdictFiles
from pipeline.runs.token_files import EvaluationTokenFile, TrainingTokenFiles
from pipeline.store import LocalStore, Store, open_store

EVENTS = "events.jsonl"
EVENTS_BYTES = 2**29
"""Largest event log that is read, bytes."""


class RunFolder:
    """The files of one kind of work in an output folder. Making one touches nothing."""

    def __init__(self, location: str | Path, kind: Kind = AUDIT) -> None:
        """``location``: a path or URL (``pipeline.store``)."""
        self.kind = kind
        self._store: Store = open_store(location)
        self.tokens = EvaluationTokenFile(self._store, kind.tokens_file, kind.name)
        self.training_tokens = TrainingTokenFiles(self._store)
        self.failures = FailureRecords(self._store, kind)
        self.shards = ShardFiles(self._store, kind, self.failures)
        self.states = StateFiles(self._store, kind)
        self.verdicts = VerdictFiles(self._store, kind)
        self.results = ResultFiles(self._store)

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
        folders = (self.shards.folder, self.failures.folder, self.states.folder)
        for folder in folders:
            self._store.make_folder(folder)
        self._store.sweep(*folders, self.verdicts.folder, "")

    def event_log(self) -> EventLog:
        """The event log of this folder; use it only while holding the lock."""
        if isinstance(self._store, LocalStore):
            return EventLog(AppendedFile(Path(self._store.place(EVENTS))))
        return EventLog(
            RewrittenFile(
                lambda: self._store.read(EVENTS, EVENTS_BYTES), lambda data: self._store.write(EVENTS, data)
            )
        )

    def read_events(self) -> list[LoggedEvent] | None:
        """Every event of the runs in this folder; None if none has started."""
        data = self._store.read(EVENTS, EVENTS_BYTES)
        return None if data is None else parse_events(data)

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
            other = "; what it holds is another kind of work, or that of a plug-in that is not loaded"
            raise UsageError(
                f"no run in {self}: wanted a folder that `int4-collapse {self.kind.name}` wrote "
                f"({self.kind.plan_file} in it){other if self._store.exists(EVENTS) else self._nearest_runs()}"
            )
        place, command = self.place(self.kind.plan_file), self.kind.name
        plan = json_record(self.kind.plan_type, place, data, command)
        checked(self.kind.spec_type, plan.config, partial(damaged, place, command), "config")
        if fault := plan.fault():
            raise damaged(place, command, fault)
        return plan

    def _nearest_runs(self) -> str:
        """Words for the runs that may have been meant: those in the folder, else those beside it; local ones only."""
        if not isinstance(self._store, LocalStore):
            return ""
        folder, plan_file = Path(self.location), self.kind.plan_file
        inside = sorted(str(plan.parent) for plan in folder.glob(f"*/{plan_file}"))[:3]
        if inside:
            return f"; did you mean {' or '.join(inside)}?"
        return nearest(folder, lambda each: (each / plan_file).is_file()) if folder.parent.is_dir() else ""
