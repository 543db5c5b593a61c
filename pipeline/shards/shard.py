"""One shard: rows with a schema, and metadata that says what they are of and how they were measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import OtherSchemaError
from pipeline.spec import ProbeTask, canonical_json
from pipeline.train.fork_spec import ForkTask


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


def shard_table(
    schema: pa.Schema,
    task: ProbeTask | ForkTask,
    rows: list[dict[str, Any]],
    versions: dict[str, str],
    notes: Iterable[str],
) -> pa.Table:
    """``rows`` of ``task`` with ``schema`` and the metadata that :func:`shard_from` reads.

    ``rows`` must have exactly the schema's keys: Arrow itself drops unknown ones and fills missing ones with
    null, silently.
    """
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise ValueError(f"row of {task.key}: columns differ: {sorted(row.keys() ^ names)}")
    spec = task.spec if isinstance(task, ForkTask) else task.probe
    probe = task.spec.probe if isinstance(task, ForkTask) else task.probe
    metadata = {
        "fingerprint": spec.fingerprint(),
        "config": canonical_json(spec.config()),
        "versions": canonical_json(versions),
        "corpus_sha256": probe.tokens_sha256,
        "notes": canonical_json(list(notes)),
    }
    if isinstance(task, ForkTask):
        metadata["identity"] = canonical_json(task.identity())
    else:
        metadata["content_id"] = task.checkpoint.content_id
        metadata["duplicates"] = canonical_json(task.duplicates)
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))
    table.validate(full=True)
    return table


def shard_from(table: pa.Table, schema: pa.Schema, key: str, place: str) -> Shard:
    """The shard ``key`` that was read from ``place``; OtherSchemaError where its columns are not ``schema``'s."""
    metadata = table.schema.metadata
    if not table.schema.remove_metadata().equals(schema):
        raise OtherSchemaError(f"{place} has another schema: it was written by another version")
    return Shard(
        key=key,
        table=table,
        fingerprint=metadata[b"fingerprint"].decode(),
        config=json.loads(metadata[b"config"]),
        identity=_identity(metadata),
        notes=tuple(json.loads(metadata[b"notes"])),
        versions=json.loads(metadata[b"versions"]),
    )


def _identity(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """As a task's ``identity()``; an audit's shard keeps the id of its weights alone."""
    if b"identity" in metadata:
        identity: dict[str, Any] = json.loads(metadata[b"identity"])
        return identity
    return {"weights": metadata[b"content_id"].decode()}
