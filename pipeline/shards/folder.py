"""Paths, reads and writes of one output folder (its layout: ``pipeline.shards``)."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import OtherSchemaError, UsageError
from pipeline.events import EventLog
from pipeline.files import (
    exclusive,
    make_folder,
    remove_file,
    seal,
    sweep_temporaries,
    unseal,
    write_atomically,
)
from pipeline.shards.plans import ForkPlan, RunPlan
from pipeline.shards.schemas import AUDIT, Kind
from pipeline.spec import ProbeTask, canonical_json
from pipeline.train.fork_spec import ForkTask

SUITES_FOLDER = Path("outputs/suites")
"""Where suites trained at first use are kept."""


@dataclass(frozen=True)
class Shard:
    """One shard as read: its rows and what its metadata says of their origin."""

    key: str
    table: pa.Table
    fingerprint: str
    config: dict[str, Any]
    identity: dict[str, Any]
    """What its contents are of: the weights of a checkpoint, or the arm and seed of a run."""
    notes: tuple[str, ...]
    versions: dict[str, str]
    """Of the packages it was measured with."""


class RunFolder:
    """Paths, reads and writes of one kind of work in one output folder. Making one touches nothing on disk."""

    def __init__(self, path: str | Path, kind: Kind = AUDIT) -> None:
        self.path = Path(path)
        self.kind = kind
        self.tables = self.path / "tables"
        self.figures = self.path / "figures"
        self.report_json = self.path / "report.json"
        self.report_html = self.path / "report.html"
        self.fork_html = self.path / "fork.html"
        self.schedules_json = self.tables / "schedules.json"
        self.events = self.path / "events.jsonl"
        self._plan = self.path / kind.plan_file
        self._tokens = self.path / kind.tokens_file
        self._train = self.path / "fork_train.npy"
        self._shards = self.path / "shards" / kind.name
        self._failures = self.path / "failures" / kind.name
        self._states = self.path / "state" / kind.name

    def __str__(self) -> str:
        return str(self.path)

    def lock(self) -> AbstractContextManager[None]:
        """Makes the folder and holds it for one driver."""
        make_folder(self.path)
        return exclusive(self.path / ".lock")

    def prepare(self) -> None:
        """Makes the folders that shards and failures go to, and removes what killed writers left."""
        for folder in (self._shards, self._failures, self._states):
            make_folder(folder)
            sweep_temporaries(folder)
        sweep_temporaries(self.path)

    def event_log(self) -> EventLog:
        """What happens in this folder, one line per event; for the holder of its lock."""
        return EventLog(self.events)

    # --- what was asked ---------------------------------------------------------------------------------

    def write_plan(self, plan: RunPlan | ForkPlan) -> None:
        text = json.dumps(dataclasses.asdict(plan), indent=1, allow_nan=False)
        write_atomically(self._plan, text.encode())

    def has_plan(self) -> bool:
        return self._plan.is_file()

    def read_plan(self) -> Any:
        """The plan of the run in this folder (a RunPlan or a ForkPlan); UsageError where there is none."""
        if not self._plan.is_file():
            raise UsageError(
                f"no run in {self.path}: wanted a folder that `int4-collapse {self.kind.name}` wrote "
                f"({self._plan.name} in it)"
            )
        try:
            return self.kind.plan_type.from_json(json.loads(self._plan.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self._plan} is damaged ({error}): run the {self.kind.name} again to rewrite it"
            ) from error

    def write_tokens(self, tokens: np.ndarray) -> None:
        """Writes the evaluation tokens."""
        _write_array(self._tokens, tokens)

    def read_tokens(self) -> np.ndarray:
        return self._read_array(self._tokens)

    def write_training_tokens(self, tokens: np.ndarray) -> None:
        """Writes the 1-D training tokens of a fork experiment."""
        _write_array(self._train, tokens)

    def read_training_tokens(self) -> np.ndarray:
        return self._read_array(self._train)

    def _read_array(self, path: Path) -> np.ndarray:
        try:
            tokens: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read ({error}): run the {self.kind.name} again to rewrite it"
            ) from error
        return tokens

    # --- shards -----------------------------------------------------------------------------------------

    def shard_path(self, key: str) -> Path:
        return self._shards / f"{key}.arrow"

    def shard_keys(self) -> list[str]:
        """Keys of the files that claim to be shards; whether they are is for :meth:`read_shard` to say."""
        return sorted(path.stem for path in self._shards.glob("*.arrow"))

    def write_shard(
        self,
        task: ProbeTask | ForkTask,
        rows: list[dict[str, Any]],
        versions: dict[str, str],
        notes: Iterable[str] = (),
    ) -> None:
        """Writes the shard of ``task`` and removes its failure record.

        ``rows`` must have exactly the schema's keys: Arrow itself drops unknown ones and fills missing ones with
        null, silently.
        """
        names = set(self.kind.schema.names)
        for row in rows:
            if row.keys() != names:
                raise ValueError(f"row of {task.key}: columns differ: {sorted(row.keys() ^ names)}")
        spec = task.spec if isinstance(task, ForkTask) else task.probe
        metadata = {
            "fingerprint": spec.fingerprint(),
            "config": canonical_json(spec.config()),
            "versions": canonical_json(versions),
            "corpus_sha256": task.spec.probe.tokens_sha256
            if isinstance(task, ForkTask)
            else task.probe.tokens_sha256,
            "notes": canonical_json(list(notes)),
        }
        if isinstance(task, ForkTask):
            metadata["identity"] = canonical_json(task.identity())
        else:
            metadata["content_id"] = task.checkpoint.content_id
            metadata["duplicates"] = canonical_json(task.duplicates)
        table = pa.Table.from_pylist(rows, schema=self.kind.schema.with_metadata(metadata))
        table.validate(full=True)
        write_atomically(self.shard_path(task.key), seal(table))
        remove_file(self._failure_path(task.key))

    def read_shard(self, key: str) -> Shard:
        """The shard ``key``, checked byte for byte; ShardError where it cannot be trusted."""
        path = self.shard_path(key)
        table = unseal(path)
        metadata = table.schema.metadata
        if not table.schema.remove_metadata().equals(self.kind.schema):
            raise OtherSchemaError(f"{path} has another schema: it was written by another version")
        return Shard(
            key=key,
            table=table,
            fingerprint=metadata[b"fingerprint"].decode(),
            config=json.loads(metadata[b"config"]),
            identity=_identity(metadata),
            notes=tuple(json.loads(metadata[b"notes"])),
            versions=json.loads(metadata[b"versions"]),
        )

    def remove_shard(self, key: str) -> None:
        remove_file(self.shard_path(key))

    # --- unfinished runs --------------------------------------------------------------------------------

    def write_state(self, key: str, data: bytes) -> None:
        """Keeps where the run ``key`` stands; makes the folder for a task that runs without a driver."""
        make_folder(self._states)
        write_atomically(self._state_path(key), data)

    def read_state(self, key: str) -> bytes | None:
        """What :meth:`write_state` kept last, or None."""
        path = self._state_path(key)
        return path.read_bytes() if path.is_file() else None

    def remove_state(self, key: str) -> None:
        self._state_path(key).unlink(missing_ok=True)

    def _state_path(self, key: str) -> Path:
        return self._states / f"{key}.pt"

    # --- failures ---------------------------------------------------------------------------------------

    def write_failure(self, key: str, reason: str, worker_deaths: int) -> None:
        record = {"key": key, "reason": reason, "worker_deaths": worker_deaths}
        write_atomically(self._failure_path(key), json.dumps(record, indent=1).encode())

    def read_failures(self) -> dict[str, str]:
        """Reason of every recorded failure, by key; a damaged record says so in place of the reason."""
        reasons: dict[str, str] = {}
        for path in sorted(self._failures.glob("*.json")):
            try:
                reasons[path.stem] = str(json.loads(path.read_text())["reason"])
            except (ValueError, KeyError, TypeError, OSError):
                reasons[path.stem] = f"unknown: its record {path} is damaged"
        return reasons

    def _failure_path(self, key: str) -> Path:
        return self._failures / f"{key}.json"

    # --- what the reduction makes -----------------------------------------------------------------------

    def write_table(self, name: str, data: bytes) -> Path:
        """Writes ``data`` at ``tables/name``."""
        return self._write_result(self.tables, name, data)

    def write_figure(self, name: str, data: bytes) -> Path:
        """Writes ``data`` at ``figures/name``."""
        return self._write_result(self.figures, name, data)

    def write_result(self, path: Path, text: str) -> Path:
        """Writes ``report.json`` or ``report.html``."""
        return self._write_result(path.parent, path.name, text.encode())

    def _write_result(self, folder: Path, name: str, data: bytes) -> Path:
        make_folder(folder)
        write_atomically(folder / name, data)
        return folder / name


def _identity(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """As a task's ``identity()``; an audit's shard keeps the id of its weights alone."""
    if b"identity" in metadata:
        identity: dict[str, Any] = json.loads(metadata[b"identity"])
        return identity
    return {"weights": metadata[b"content_id"].decode()}


def _write_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomically(path, buffer.getvalue())
