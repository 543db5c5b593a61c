"""The output folder of a run: the only module that knows its paths and the schema of its shards.

::

    DIR/run.json                        what was asked for: suite, checkpoints, settings, fingerprint
    DIR/tokens.npy                      the evaluation tokens, int64 (batches, batch_size, seq_len)
    DIR/shards/audit/step000001000.arrow   one checkpoint, one row per variant
    DIR/failures/audit/step000001000.json  why a checkpoint has no shard (gone once it has one)
    DIR/tables/ report.json report.html figures/   what the reduction makes of them
    DIR/.lock                           held by the one driver of the folder

A shard is done when its file is there and sealed (``pipeline.files``); there is no marker and no database.
"""

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

from pipeline.errors import ShardError, UsageError
from pipeline.files import exclusive, make_folder, seal, sweep_temporaries, unseal, write_atomically
from pipeline.spec import Checkpoint, ProbeTask, canonical_json

SUITES_FOLDER = Path("outputs/suites")
"""Where suites trained at first use are kept."""

_TENSOR = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("mean", "std", "absmax", "kurtosis")),
        pa.field("relative_error", pa.float64()),
        pa.field("boundary_fraction", pa.float64()),
    ]
)

AUDIT_SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("tokens_seen", pa.int64()),
        pa.field("learning_rate", pa.float64()),
        pa.field("weights_sha256", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string()),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("nll_nats", pa.float64(), nullable=False),
        pa.field("perplexity", pa.float64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("batch_nll_nats", pa.list_(pa.float64()), nullable=False),
        pa.field("kl_nats_mean", pa.float64(), nullable=False),
        pa.field("kl_nats_p50", pa.float64(), nullable=False),
        pa.field("kl_nats_p99", pa.float64(), nullable=False),
        pa.field("top1_agreement", pa.float64(), nullable=False),
        pa.field("delta_p_rms", pa.float64(), nullable=False),
        pa.field("tensors", pa.list_(_TENSOR), nullable=False),
        pa.field("load_s", pa.float64(), nullable=False),
        pa.field("probe_s", pa.float64(), nullable=False),
        pa.field("peak_bytes", pa.int64(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class RunPlan:
    """What was asked of a run: the contents of ``run.json``."""

    suite: str
    checkpoints: tuple[Checkpoint, ...]
    """Every checkpoint that a complete run has a shard of, in order of step."""
    config: dict[str, Any]
    """The probe's resolved settings (``ProbeSpec.config``)."""
    fingerprint: str
    corpus: str
    """The evaluation corpus as the user named it."""
    versions: dict[str, str]
    recipe: dict[str, Any]
    """What the suite says of its training (empty where it says nothing)."""
    skipped: tuple[str, ...] = ()
    """Names in the suite's folder or repository that are not checkpoints."""
    wall_s: float = 0.0
    """Seconds spent by all finished calls of the audit in this folder."""


@dataclass(frozen=True)
class Shard:
    """One shard as read: its rows and what its metadata says of their origin."""

    key: str
    table: pa.Table
    fingerprint: str
    config: dict[str, Any]
    content_id: str
    notes: tuple[str, ...]


class RunFolder:
    """Paths, reads and writes of one output folder. Making one touches nothing on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tables = self.path / "tables"
        self.figures = self.path / "figures"
        self.report_json = self.path / "report.json"
        self.report_html = self.path / "report.html"
        self._plan = self.path / "run.json"
        self._tokens = self.path / "tokens.npy"
        self._shards = self.path / "shards" / "audit"
        self._failures = self.path / "failures" / "audit"

    def __str__(self) -> str:
        return str(self.path)

    def lock(self) -> AbstractContextManager[None]:
        """Makes the folder and holds it for one driver."""
        make_folder(self.path)
        return exclusive(self.path / ".lock")

    def prepare(self) -> None:
        """Makes the folders that shards and failures go to, and removes what killed writers left."""
        for folder in (self._shards, self._failures):
            make_folder(folder)
            sweep_temporaries(folder)
        sweep_temporaries(self.path)

    # --- what was asked ---------------------------------------------------------------------------------

    def write_plan(self, plan: RunPlan) -> None:
        text = json.dumps(dataclasses.asdict(plan), indent=1, allow_nan=False)
        write_atomically(self._plan, text.encode())

    def has_plan(self) -> bool:
        return self._plan.is_file()

    def read_plan(self) -> RunPlan:
        """The plan of the run in this folder; UsageError where there is none."""
        if not self._plan.is_file():
            raise UsageError(
                f"no run in {self.path}: wanted a folder that `int4-collapse audit` wrote ({self._plan.name} in it)"
            )
        try:
            fields = json.loads(self._plan.read_text())
            checkpoints = tuple(Checkpoint(**fields) for fields in fields.pop("checkpoints"))
            skipped = tuple(fields.pop("skipped"))
            return RunPlan(checkpoints=checkpoints, skipped=skipped, **fields)
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self._plan} is damaged ({error}): run the audit again to rewrite it"
            ) from error

    def write_tokens(self, tokens: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, tokens)
        write_atomically(self._tokens, buffer.getvalue())

    def read_tokens(self) -> np.ndarray:
        try:
            tokens: np.ndarray = np.load(self._tokens, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self._tokens} cannot be read ({error}): run the audit again to rewrite it"
            ) from error
        return tokens

    # --- shards -----------------------------------------------------------------------------------------

    def shard_path(self, key: str) -> Path:
        return self._shards / f"{key}.arrow"

    def shard_keys(self) -> list[str]:
        """Keys of the files that claim to be shards; whether they are is for :meth:`read_shard` to say."""
        return sorted(path.stem for path in self._shards.glob("*.arrow"))

    def write_shard(
        self, task: ProbeTask, rows: list[dict[str, Any]], versions: dict[str, str], notes: Iterable[str] = ()
    ) -> None:
        """Writes the shard of ``task`` and removes its failure record.

        ``rows`` must have exactly the schema's keys: Arrow itself drops unknown ones and fills missing ones with
        null, silently.
        """
        for row in rows:
            if row.keys() != set(AUDIT_SCHEMA.names):
                raise ValueError(
                    f"row of {task.key}: columns differ: {sorted(row.keys() ^ set(AUDIT_SCHEMA.names))}"
                )
        metadata = {
            "fingerprint": task.probe.fingerprint(),
            "config": canonical_json(task.probe.config()),
            "versions": canonical_json(versions),
            "corpus_sha256": task.probe.tokens_sha256,
            "content_id": task.checkpoint.content_id,
            "duplicates": canonical_json(task.duplicates),
            "notes": canonical_json(list(notes)),
        }
        table = pa.Table.from_pylist(rows, schema=AUDIT_SCHEMA.with_metadata(metadata))
        table.validate(full=True)
        write_atomically(self.shard_path(task.key), seal(table))
        self._failure_path(task.key).unlink(missing_ok=True)

    def read_shard(self, key: str) -> Shard:
        """The shard ``key``, checked byte for byte; ShardError where it cannot be trusted."""
        path = self.shard_path(key)
        table = unseal(path)
        metadata = table.schema.metadata
        if not table.schema.remove_metadata().equals(AUDIT_SCHEMA):
            raise ShardError(f"{path} has another schema: it was written by another version")
        return Shard(
            key=key,
            table=table,
            fingerprint=metadata[b"fingerprint"].decode(),
            config=json.loads(metadata[b"config"]),
            content_id=metadata[b"content_id"].decode(),
            notes=tuple(json.loads(metadata[b"notes"])),
        )

    def remove_shard(self, key: str) -> None:
        self.shard_path(key).unlink(missing_ok=True)

    # --- failures ---------------------------------------------------------------------------------------

    def write_failure(self, key: str, reason: str, worker_deaths: int) -> None:
        record = {"key": key, "reason": reason, "worker_deaths": worker_deaths}
        write_atomically(self._failure_path(key), json.dumps(record, indent=1).encode())

    def read_failures(self) -> dict[str, str]:
        """Reason of every recorded failure, by key."""
        records = (json.loads(path.read_text()) for path in sorted(self._failures.glob("*.json")))
        return {record["key"]: record["reason"] for record in records}

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
