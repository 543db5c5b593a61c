"""The naive loop and the pipeline in turn on the same checkpoints, tokens and cores."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.audit import AuditRequest, audit
from pipeline.errors import CollapseError, UsageError
from pipeline.ledger import Progress
from pipeline.shards import RunFolder
from pipeline.suites import fetch


@dataclass(frozen=True)
class Comparison:
    """Times and the agreement of one comparison."""

    checkpoints: int
    naive_s: float
    """Seconds per checkpoint of the naive loop, all cores, after a warm-up checkpoint."""
    pipeline_s: float
    """Seconds per checkpoint of the pipeline, all cores, between the first and the last finished checkpoint: what a
    long audit pays."""
    pipeline_total_s: float
    """Seconds of the whole pipeline call, starting Ray and its workers included."""
    max_nll_difference_nats: float
    """Largest difference between the two over all checkpoints and variants."""
    cores: int
    device: str

    @property
    def ratio(self) -> float:
        """How many times as fast the pipeline is."""
        return self.naive_s / self.pipeline_s


def compare(request: AuditRequest, on_step: Callable[[str, int, int], None] = lambda *_: None) -> Comparison:
    """Runs both over the suite of ``request`` (its ``out`` is not used); at least 4 distinct checkpoints.

    ``on_step`` is called with the side (``naive`` or ``pipeline``), checkpoints done and checkpoints in all.
    """
    checkpoints = [
        dataclasses.replace(c, duplicate_of=None) for c in request.suite.checkpoints if not c.duplicate_of
    ]
    workers = request.resources.workers or os.cpu_count() or 1
    if len(checkpoints) <= workers + 1:
        raise UsageError(f"{len(checkpoints)} distinct checkpoints are too few to time {workers} workers on")
    suite = dataclasses.replace(request.suite, checkpoints=tuple(checkpoints))
    pipeline_s, total_s, measured = _time_pipeline(
        dataclasses.replace(request, suite=suite), workers, on_step
    )
    naive_s, expected = _time_naive(dataclasses.replace(request, suite=suite), measured[1], on_step)
    differences = [abs(measured[0][key] - value) for key, value in expected.items()]
    return Comparison(
        checkpoints=len(checkpoints),
        naive_s=naive_s,
        pipeline_s=pipeline_s,
        pipeline_total_s=total_s,
        max_nll_difference_nats=max(differences),
        cores=os.cpu_count() or 1,
        device=measured[1],
    )


def _time_naive(
    request: AuditRequest, device: str, on_step: Callable[[str, int, int], None]
) -> tuple[float, dict[tuple[str, str], float]]:
    from pipeline.benchmark.naive import naive_losses

    losses: dict[tuple[str, str], float] = {}
    folders = [(checkpoint.key, fetch(checkpoint)) for checkpoint in request.suite.checkpoints]
    torch_device = "cpu" if device == "cpu" else "cuda"
    naive_losses(folders[0][1], request.probe.variants, request.tokens.array[:1], torch_device)
    start = time.perf_counter()
    for done, (key, folder) in enumerate(folders, start=1):
        for variant, loss in naive_losses(
            folder, request.probe.variants, request.tokens.array, torch_device
        ).items():
            losses[key, variant] = loss
        on_step("naive", done, len(folders))
    return (time.perf_counter() - start) / len(folders), losses


def _time_pipeline(
    request: AuditRequest, workers: int, on_step: Callable[[str, int, int], None]
) -> tuple[float, float, tuple[dict[tuple[str, str], float], str]]:
    finished: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.last is not None:
            finished.append(time.perf_counter())
            on_step("pipeline", progress.done, progress.total)

    with tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch:
        folder = RunFolder(Path(scratch))
        start = time.perf_counter()
        summary = audit(dataclasses.replace(request, out=folder), on_progress=on_progress)
        total_s = time.perf_counter() - start
        if summary.failures:
            raise CollapseError(f"the benchmark's checkpoints failed: {next(iter(summary.failures.items()))}")
        rows = [row for key in summary.measured for row in _rows(folder, key)]
    # The first checkpoint of every worker also pays for its start; the rest is the steady state.
    steady_s = (finished[-1] - finished[workers - 1]) / (len(finished) - workers)
    return steady_s, total_s, ({(key, variant): nll for key, variant, nll, _ in rows}, rows[0][3])


def _rows(folder: RunFolder, key: str) -> list[tuple[str, str, float, str]]:
    table = folder.read_shard(key).table.select(["variant", "nll_nats", "device"]).to_pylist()
    return [(key, row["variant"], row["nll_nats"], row["device"]) for row in table]
