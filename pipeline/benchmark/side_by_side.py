"""The naive loop and the pipeline in turn on the same checkpoints, tokens and device."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.base.english import counted
from pipeline.base.errors import CollapseError, UsageError
from pipeline.benchmark.naive import naive_losses, scipy_kurtosis
from pipeline.benchmark.outcome import TOLERANCES_NATS, Benchmark, OnPart, OnStep, Seconds, Timing
from pipeline.driver import Layout, cluster
from pipeline.runs.execute import execute
from pipeline.runs.folder import RunFolder
from pipeline.runs.progress import Progress
from pipeline.runs.requests import AuditRequest
from pipeline.suites import fetch

NAIVE_ON_GPU = 4
"""Checkpoints that the naive loop is timed on on a GPU; on the CPU all of them."""


def compare(
    request: AuditRequest,
    on_step: OnStep = lambda *_: None,
    on_part: OnPart = lambda _: None,
    *,
    scaling: bool = False,
) -> Benchmark:
    """Run both over the suite of ``request`` (its ``out`` is not used).

    The naive loop has all cores, or the first GPU, of this machine. Needs two distinct checkpoints more than workers.
    ``scaling`` times the pipeline with one worker as well. ``on_step`` is called with the sides ``one worker``,
    ``pipeline``, ``naive loop`` and ``naive loop with SciPy's kurtosis``.
    """
    suite = dataclasses.replace(request.suite, checkpoints=request.suite.distinct)
    request = dataclasses.replace(request, suite=suite)
    found = Benchmark("audit", request.suite.name, unit="checkpoint", base="pipeline").plus(
        checkpoints=len(request.suite.checkpoints),
        n_tokens=request.probe.shape.n_tokens,
        variants=list(map(str, request.probe.variants)),
        arithmetic=request.probe.arithmetic,
        cores=os.cpu_count() or 1,
    )

    def add(row: Timing, **more: Any) -> None:
        nonlocal found
        found = found.plus(row, **more)
        on_part(found)

    start = time.perf_counter()
    on_step("pipeline", 0, len(request.suite.checkpoints))
    with cluster(request.resources) as layout:
        start_s = time.perf_counter() - start
        _require_enough(request, layout, scaling=scaling)
        pipeline = _time_pipeline(request, layout.workers, lambda *done: on_step("pipeline", *done))
        add(pipeline.row("pipeline", start_s), device=pipeline.device, workers=layout.workers)
        if scaling:
            alone = dataclasses.replace(request, resources=dataclasses.replace(request.resources, workers=1))
            single = _time_pipeline(alone, 1, lambda *done: on_step("one worker", *done))
            add(single.row("pipeline, one worker"))
    folders = _naive_folders(request, layout.device)
    times, losses = _time_naive(request, folders, layout.device, lambda *done: on_step("naive loop", *done))
    add(
        Timing(
            "naive loop",
            ours=False,
            seconds=Seconds.of(times),
            differences_nats=_largest_differences(pipeline.losses, losses),
            against="pipeline",
            tolerance_nats=TOLERANCES_NATS[request.probe.arithmetic],
        )
    )
    on_step("naive loop with SciPy's kurtosis", 0, 1)
    add(_time_scipy(request, folders[0][1], layout.device))
    return found


def _time_scipy(request: AuditRequest, folder: Path, device: str) -> Timing:
    start = time.perf_counter()
    naive_losses(folder, request.probe.variants, request.tokens.array, device, inspect=scipy_kurtosis)
    took = Seconds.of([time.perf_counter() - start])
    return Timing("naive loop with SciPy's kurtosis", ours=False, seconds=took)


Losses = dict[tuple[str, str], float]
"""Mean nll in nats by key and variant."""


@dataclass(frozen=True)
class _Pipeline:
    seconds: Seconds
    total_s: float
    peak_gib: float
    device: str
    losses: Losses

    def row(self, what: str, start_s: float = 0.0) -> Timing:
        """``start_s``: seconds until Ray had started, before the call that was timed."""
        return Timing(
            what,
            ours=True,
            seconds=self.seconds,
            peak_gib=self.peak_gib,
            numbers={"total_s": start_s + self.total_s},
        )


def _largest_differences(ours: Losses, naive: Losses) -> dict[str, float]:
    """By variant, over the checkpoints that both measured; NaN if a loss is."""
    found: dict[str, list[float]] = {}
    for (key, variant), loss in naive.items():
        found.setdefault(variant, []).append(abs(loss - ours[key, variant]))
    return {variant: float(np.max(values)) for variant, values in found.items()}


def _require_enough(request: AuditRequest, layout: Layout, *, scaling: bool) -> None:
    distinct = len(request.suite.checkpoints)
    if distinct <= layout.workers + 1:
        raise UsageError(
            f"{counted(distinct, 'distinct checkpoint', are=True)} too few to time "
            f"{counted(layout.workers, 'worker')} on: wanted at least {layout.workers + 2}, "
            "by a larger --limit or other --steps, or fewer --workers"
        )
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
) -> tuple[list[float], Losses]:
    """Seconds of each checkpoint of ``folders``, after a warm-up batch, and the losses."""
    variants, tokens = request.probe.variants, request.tokens.array
    on_step(0, len(folders))
    naive_losses(folders[0][1], variants, tokens[:1], device)
    times: list[float] = []
    losses: Losses = {}
    for key, folder in folders:
        start = time.perf_counter()
        found = naive_losses(folder, variants, tokens, device)
        times.append(time.perf_counter() - start)
        losses |= {(key, variant): loss for variant, loss in found.items()}
        on_step(len(times), len(folders))
    return times, losses


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
    return _Pipeline(
        seconds=_steady(finished, workers),
        total_s=total_s,
        peak_gib=max(row["peak_bytes"] for _, row in rows) / 2**30,
        device=rows[0][1]["device"],
        losses={(key, row["variant"]): row["nll_nats"] for key, row in rows},
    )


def _steady(finished: list[float], workers: int) -> Seconds:
    """Seconds per checkpoint of the steady state, from the times at which checkpoints were finished.

    The first checkpoint of every worker includes its start and is left out. A timing is the time in which as many
    checkpoints are finished as there are workers, over their number; with too few of them, one period counts.
    """
    rounds = [
        (after - before) / workers for before, after in itertools.pairwise(finished[workers - 1 :: workers])
    ]
    return Seconds.of(rounds or [(finished[-1] - finished[workers - 1]) / (len(finished) - workers)])
