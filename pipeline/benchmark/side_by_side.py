"""The naive loop and the pipeline in turn on the same checkpoints, tokens and device."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.base.errors import CollapseError, UsageError
from pipeline.benchmark.naive import naive_losses, scipy_kurtosis
from pipeline.driver import Layout, cluster
from pipeline.runs.execute import execute
from pipeline.runs.folder import RunFolder
from pipeline.runs.progress import Progress
from pipeline.runs.requests import AuditRequest
from pipeline.spec import Checkpoint
from pipeline.suites import fetch

NAIVE_ON_GPU = 4
"""Checkpoints that the naive loop is timed on on a GPU; on the CPU all of them."""

OnStep = Callable[[str, int, int], None]
"""Called with the side, checkpoints done and total checkpoints."""
OnPart = Callable[[dict[str, Any]], None]
"""Called with the results so far, as plain values, after each new result."""


@dataclass(frozen=True)
class Comparison:
    """Times and the agreement of one comparison. The naive loop has all cores, or the first GPU, of this machine."""

    checkpoints: int
    """Distinct checkpoints that the pipeline measured."""
    n_tokens: int
    variants: tuple[str, ...]
    naive_s: float
    """Seconds per checkpoint of the naive loop, all cores, after a warm-up checkpoint."""
    naive_checkpoints: int
    """Checkpoints that the naive loop was timed on."""
    naive_scipy_s: float
    """Seconds per checkpoint of the naive loop with SciPy's kurtosis of each block weight, on one checkpoint."""
    pipeline_s: float
    """Seconds per checkpoint of the pipeline, all workers, between the first and the last finished checkpoint: the
    rate of a long audit, from the local disk to the shard."""
    pipeline_total_s: float
    """Seconds of the whole pipeline call, starting Ray and its workers included."""
    single_worker_s: float | None
    """``pipeline_s`` with one worker; None: not measured."""
    max_nll_difference_nats: float
    """Largest difference between the two over the naive loop's checkpoints and all variants."""
    peak_gib: float
    """GPU: largest memory allocated by a worker. CPU: largest resident size of a worker."""
    arithmetic: str
    workers: int
    """Workers of the pipeline."""
    cores: int
    """Cores of this machine."""
    device: str

    @property
    def ratio(self) -> float:
        """Speed of the pipeline over that of the naive loop."""
        return self.naive_s / self.pipeline_s

    @property
    def scipy_ratio(self) -> float:
        """Speed of the pipeline over that of the naive loop with SciPy's kurtosis."""
        return self.naive_scipy_s / self.pipeline_s

    @property
    def scaling(self) -> float | None:
        """Speed of all workers over that of one; None: not measured."""
        return None if self.single_worker_s is None else self.single_worker_s / self.pipeline_s


def compare(
    request: AuditRequest,
    on_step: OnStep = lambda *_: None,
    on_part: OnPart = lambda _: None,
    *,
    scaling: bool = False,
) -> Comparison:
    """Run both over the suite of ``request`` (its ``out`` is not used).

    Needs two distinct checkpoints more than workers. ``scaling`` times the pipeline with one worker as well.
    ``on_step`` is called with the sides ``one worker``, ``pipeline``, ``naive loop`` and ``naive loop with SciPy's
    kurtosis``.
    """
    request = dataclasses.replace(
        request, suite=dataclasses.replace(request.suite, checkpoints=_distinct(request))
    )
    found: dict[str, Any] = {
        "checkpoints": len(request.suite.checkpoints),
        "n_tokens": request.probe.shape.n_tokens,
        "variants": tuple(map(str, request.probe.variants)),
        "arithmetic": request.probe.arithmetic,
        "cores": os.cpu_count() or 1,
        "single_worker_s": None,
    }

    def add(**fields: Any) -> None:
        found.update(fields)
        on_part(dict(found))

    start = time.perf_counter()
    on_step("pipeline", 0, len(request.suite.checkpoints))
    with cluster(request.resources) as layout:
        start_s = time.perf_counter() - start
        _require_enough(request, layout, scaling=scaling)
        pipeline = _time_pipeline(request, layout.workers, lambda *done: on_step("pipeline", *done))
        add(
            pipeline_s=pipeline.steady_s,
            pipeline_total_s=start_s + pipeline.total_s,
            peak_gib=pipeline.peak_gib,
            workers=layout.workers,
            device=pipeline.device,
        )
        if scaling:
            alone = dataclasses.replace(request, resources=dataclasses.replace(request.resources, workers=1))
            single = _time_pipeline(alone, 1, lambda *done: on_step("one worker", *done))
            add(single_worker_s=single.steady_s)
    folders = _naive_folders(request, layout.device)
    seconds, losses = _time_naive(request, folders, layout.device, lambda *done: on_step("naive loop", *done))
    differences = [abs(pipeline.losses[key] - loss) for key, loss in losses.items()]
    add(naive_s=seconds, naive_checkpoints=len(folders), max_nll_difference_nats=max(differences))
    on_step("naive loop with SciPy's kurtosis", 0, 1)
    start = time.perf_counter()
    variants, tokens = request.probe.variants, request.tokens.array
    naive_losses(folders[0][1], variants, tokens, layout.device, inspect=scipy_kurtosis)
    add(naive_scipy_s=time.perf_counter() - start)
    return Comparison(**found)


Losses = dict[tuple[str, str], float]
"""Mean nll in nats by key and variant."""


@dataclass(frozen=True)
class _Pipeline:
    steady_s: float
    total_s: float
    peak_gib: float
    device: str
    losses: Losses


def _distinct(request: AuditRequest) -> tuple[Checkpoint, ...]:
    return tuple(each for each in request.suite.checkpoints if each.duplicate_of is None)


def _require_enough(request: AuditRequest, layout: Layout, *, scaling: bool) -> None:
    distinct = len(request.suite.checkpoints)
    if distinct <= layout.workers + 1:
        raise UsageError(f"{distinct} distinct checkpoints are too few to time {layout.workers} workers on")
    if scaling and layout.workers == 1:
        raise UsageError("--scaling: only one worker fits; wanted several GPUs or CPU cores")
    if layout.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "the naive loop runs in this process, which has no GPU: start it on a machine with one"
        )


def _naive_folders(request: AuditRequest, device: str) -> list[tuple[str, Path]]:
    """Keys and folders of the checkpoints that the naive loop is timed on."""
    count = NAIVE_ON_GPU if device == "cuda" else len(request.suite.checkpoints)
    return [(checkpoint.key, fetch(checkpoint)) for checkpoint in request.suite.checkpoints[:count]]


def _time_naive(
    request: AuditRequest, folders: list[tuple[str, Path]], device: str, on_step: Callable[[int, int], None]
) -> tuple[float, Losses]:
    """Seconds per checkpoint of the loop over ``folders``, after a warm-up batch, and its losses."""
    variants, tokens = request.probe.variants, request.tokens.array
    on_step(0, len(folders))
    naive_losses(folders[0][1], variants, tokens[:1], device)
    losses: Losses = {}
    start = time.perf_counter()
    for done, (key, folder) in enumerate(folders, start=1):
        for variant, loss in naive_losses(folder, variants, tokens, device).items():
            losses[key, variant] = loss
        on_step(done, len(folders))
    return (time.perf_counter() - start) / len(folders), losses


def _time_pipeline(request: AuditRequest, workers: int, on_step: Callable[[int, int], None]) -> _Pipeline:
    """Time an audit into a temporary folder with ``workers`` workers."""
    finished: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.last is not None:
            finished.append(time.perf_counter())
            on_step(progress.done, progress.total)

    with tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch:
        folder = RunFolder(Path(scratch))
        start = time.perf_counter()
        summary = execute(dataclasses.replace(request, out=folder), on_progress=on_progress)
        total_s = time.perf_counter() - start
        if summary.failures:
            raise CollapseError(f"the benchmark's checkpoints failed: {next(iter(summary.failures.items()))}")
        columns = ["variant", "nll_nats", "device", "peak_bytes"]
        rows = [
            (key, row)
            for key in summary.measured
            for row in folder.shards.read(key).table.select(columns).to_pylist()
        ]
    # The first checkpoint of every worker includes its start; the rest is the steady state.
    return _Pipeline(
        steady_s=(finished[-1] - finished[workers - 1]) / (len(finished) - workers),
        total_s=total_s,
        peak_gib=max(row["peak_bytes"] for _, row in rows) / 2**30,
        device=rows[0][1]["device"],
        losses={(key, row["variant"]): row["nll_nats"] for key, row in rows},
    )
