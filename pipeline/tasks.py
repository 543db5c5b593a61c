"""The units of work as plain functions: call them in a REPL, or let the driver run them on a cluster."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.probe import Measurement, Prober
from pipeline.shards import RunFolder
from pipeline.spec import Checkpoint, ProbeTask
from pipeline.suites import fetch
from pipeline.versions import versions


@dataclass(frozen=True)
class TaskDone:
    """What the driver needs to know of a finished task; the numbers are in the shard."""

    key: str
    seconds: float
    notes: tuple[str, ...] = ()


def make_prober(task: ProbeTask) -> Prober:
    """The warm state for ``task`` and every other task of the same probe: tokens, device, model skeleton."""
    tokens = RunFolder(task.out).read_tokens()
    return Prober(task.probe, tokens, task.device)


def run_probe(task: ProbeTask, prober: Prober | None = None) -> TaskDone:
    """Measures one checkpoint and writes its shard.

    ``prober`` is reused where given. Raises CheckpointError for a checkpoint that cannot be used and OutputError
    where the shard cannot be written.
    """
    prober = prober or make_prober(task)
    measured = prober.measure(fetch(task.checkpoint), task.checkpoint.weights_sha256)
    rows = shard_rows(task.suite, task.checkpoint, measured)
    RunFolder(task.out).write_shard(task, rows, versions(), measured.notes)
    return TaskDone(task.key, measured.load_s + measured.probe_s, measured.notes)


def copy_probe(task: ProbeTask) -> TaskDone:
    """Writes the shard of a duplicate from the shard of the checkpoint it duplicates: the same numbers."""
    checkpoint = task.checkpoint
    if checkpoint.duplicate_of is None:
        raise ValueError(f"{checkpoint.key} duplicates nothing")
    folder = RunFolder(task.out)
    source = folder.read_shard(checkpoint.duplicate_of)
    if source.fingerprint != task.probe.fingerprint() or source.content_id != checkpoint.content_id:
        raise CheckpointError(f"{checkpoint.key} cannot repeat {source.key}: that shard is of other weights")
    rows = [row | identity(task.suite, checkpoint) for row in source.table.to_pylist()]
    folder.write_shard(task, rows, versions(), source.notes)
    return TaskDone(checkpoint.key, 0.0, source.notes)


def shard_rows(suite: str, checkpoint: Checkpoint, measured: Measurement) -> list[dict[str, Any]]:
    """One dict per variant with exactly the columns of the shard."""
    common = {
        **identity(suite, checkpoint),
        "weights_sha256": measured.weights_sha256,
        "load_s": measured.load_s,
        "probe_s": measured.probe_s,
        "peak_bytes": measured.peak_bytes,
        "device": measured.device,
    }
    return [common | dataclasses.asdict(result) for result in measured.results]


def identity(suite: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """The columns that say which checkpoint a row is of."""
    return {
        "suite": suite,
        "revision": checkpoint.revision,
        "step": checkpoint.step,
        "tokens_seen": checkpoint.tokens_seen,
        "learning_rate": checkpoint.learning_rate,
        "duplicate_of": checkpoint.duplicate_of,
    }
