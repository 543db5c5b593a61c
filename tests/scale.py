"""A finished run of thousands of checkpoints, made without measuring: what resuming and reducing it cost.

``python -m tests.scale --checkpoints 10000 --tensors 150`` makes it in a scratch folder, then times the two commands as
their user would: ``audit`` with ten shards missing up to the first task, and ``reduce``.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.base.files import with_checksum
from pipeline.base.versions import versions
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.requests import AuditRequest
from pipeline.runs.shard import Origin
from pipeline.runs.task_values import ProbeTask
from pipeline.suites.content_memory import SETTLED_NS
from tests.jobs.conftest import start
from tests.models import VOCAB, save_tiny_model
from tests.run_files import events_in

MISSING = 10
BATCHES = 32


def write_suite(folder: Path, checkpoints: int) -> None:
    """One tiny model under ``checkpoints`` names, each with contents of its own."""
    model = save_tiny_model("llama", folder / "step0")
    config = (model / "config.json").read_text()
    for step in range(1, checkpoints):
        copy = folder / f"step{step}"
        copy.mkdir()
        (copy / "model.safetensors").hardlink_to(model / "model.safetensors")
        (copy / "config.json").write_text(config + "\n" * (step % 4096) + " " * (step // 4096))


def write_shards(request: AuditRequest, tensors: int) -> None:
    """A shard of random numbers for every checkpoint of ``request``."""
    draw = np.random.default_rng(0)
    probe = request.probe
    names = [f"model.layers.{i // 6}.projection_{i % 6}.weight" for i in range(tensors)]
    template: pa.Table | None = None
    for checkpoint in request.suite.checkpoints:
        task = ProbeTask(request.suite.name, checkpoint, probe, request.out.location)
        path = Path(request.out.place(f"shards/audit/{task.key}.arrow"))
        if template is None:
            rows = [row(task, str(variant), names, draw) for variant in probe.variants]
            request.out.shards.write(task, rows, Origin(versions()))
            template = request.out.shards.read(task.key).table
            continue
        n = len(template)
        table = template
        for name, value in (("step", checkpoint.step), ("revision", checkpoint.revision)):
            index = table.schema.get_field_index(name)
            table = table.set_column(index, table.schema.field(name), pa.array([value] * n))
        batches = 2 + 0.1 * draw.random((n, BATCHES))
        for name, values in (
            ("batch_nll_nats", pa.array(list(batches))),
            ("nll_nats", pa.array(batches.mean(1))),
        ):
            index = table.schema.get_field_index(name)
            table = table.set_column(index, table.schema.field(name), values)
        metadata = {**template.schema.metadata, b"content_id": checkpoint.content_id.encode()}
        path.write_bytes(with_checksum(table.replace_schema_metadata(metadata)))


def row(task: ProbeTask, variant: str, names: list[str], draw: np.random.Generator) -> dict[str, Any]:
    """One row of a shard with random numbers."""
    fp32 = variant == "fp32"
    return {
        "suite": task.suite, "revision": task.checkpoint.revision, "step": task.checkpoint.step, "tokens_seen": None,
        "learning_rate": None, "weights_sha256": "0" * 64, "duplicate_of": None, "variant": variant, "nll_nats": 2.0,
        "perplexity": 7.4, "n_tokens": 4096, "batch_nll_nats": [2.0] * BATCHES, "kl_nats_mean": 0.1, "kl_nats_p50": 0.1,
        "kl_nats_p99": 0.2, "top1_agreement": 0.9, "delta_p_rms": 0.1,
        "tensors": [
            {
                "name": name, "n": 4096, "mean": 0.0, "std": 1.0, "absmax": 4.0, "kurtosis": draw.random(),
                "relative_error": None if fp32 else draw.random(), "boundary_fraction": None if fp32 else 0.2,
            }
            for name in names
        ],
        "load_s": 0.1, "probe_s": 0.1, "peak_bytes": 1, "device": "cpu",
    }  # fmt: skip


def first_task_s(command: list[object], out: Path) -> float:
    """Seconds from the start of ``audit`` to the first task that a worker is given."""
    before, began = len(events_in(out)), time.time()
    with start(*command) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    joined = [event for event in events_in(out)[before:] if event["event"] == "worker_joined"]
    return datetime.fromisoformat(joined[0]["time"]).timestamp() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--tensors", type=int, default=150)
    parser.add_argument("--keep", metavar="DIR", help="Make it here and leave it, or use what is there.")
    given = parser.parse_args()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="scale-"))
    suite, out, tokens = folder / "suite", folder / "out", folder / "tokens.npy"
    size = ("--batches", BATCHES, "--batch-size", 1, "--seq-len", 32)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # what earlier commands remember of the suite
    command = ["audit", suite, "--out", out, "--corpus", f"tokens:{tokens}", *size]
    if not out.exists():
        folder.mkdir(exist_ok=True)
        write_suite(suite, given.checkpoints)
        np.save(tokens, np.random.default_rng(0).integers(0, VOCAB, 4096))
        with start(*command, "--limit", 1) as process:
            process.communicate()
        options = AuditOptions(
            str(suite), str(out), corpus=f"tokens:{tokens}", batches=BATCHES, batch_size=1, seq_len=32
        )
        write_shards(build_request(options), given.tensors)
        time.sleep(SETTLED_NS / 1e9 + 1)
        build_request(options)  # as the run that is resumed did, when it began
    for path in random.Random(0).sample(sorted((out / "shards" / "audit").glob("*.arrow")), MISSING):
        path.unlink()
    print(f"resume: {first_task_s(command, out):.1f} s to the first of {MISSING} tasks", flush=True)
    began = time.perf_counter()
    with start("reduce", out) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"reduce: {time.perf_counter() - began:.1f} s, peak {peak:.2f} GiB", flush=True)
    if not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
