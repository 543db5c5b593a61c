"""Compare a whole fork experiment with the same number of naive runs in sequence, from the request to the last row.

The naive side times the first run of the experiment only and multiplies it by the number of runs, which all do the
same work. It trains and evaluates with the naive loops (``naive_training``, ``naive``) on the same batches at the
same learning rates, and makes the same rows: live weights, EMA and LAWA under every variant at every probe.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.base.errors import CollapseError
from pipeline.benchmark.naive import losses_of, naive_model
from pipeline.benchmark.naive_training import NaiveTraining
from pipeline.benchmark.outcome import TOLERANCES_NATS, Benchmark, OnPart, OnStep, Seconds, Timing
from pipeline.models.loading import read_weights
from pipeline.runs.execute import execute
from pipeline.runs.plans import PlannedRun
from pipeline.runs.progress import Progress
from pipeline.runs.requests import ForkRequest
from pipeline.suites import fetch
from pipeline.suites.optimizer_moments import read_moments
from pipeline.train.arms import make_arm_schedule
from pipeline.train.averages import Averages, checkpoint_model
from pipeline.train.data import Batches
from pipeline.train.fork_spec import DATA_SEED_OFFSET
from pipeline.train.loop import choose_device
from pipeline.train.optimizers import load_moments

Losses = dict[tuple[int, str, str], float]
"""Mean nll in nats by step, weights (live, ema, lawa) and variant."""


def compare_fork_runs(
    request: ForkRequest, on_step: OnStep = lambda *_: None, on_part: OnPart = lambda _: None
) -> Benchmark:
    """Run ``request`` into its empty folder, then its first run naively in this process.

    Workers must find the GPU free, so this process uses it only after they have ended.
    """
    spec, resources = request.spec, request.resources
    device = choose_device(resources.device)
    on_gpu = device.type == "cuda"
    found = Benchmark("fork-runs", request.suite, unit="experiment", base="fork").plus(
        runs=len(request.runs()),
        updates=spec.rates.steps,
        tokens_per_step=spec.tokens_per_step,
        probes=len(spec.probe_steps),
        probe_tokens=spec.probe.shape.n_tokens,
        variants=list(map(str, spec.probe.variants)),
        precision=spec.precision,
        compiled=spec.compiled,
        runs_per_gpu=int(1 / resources.gpu_share + 1e-9) if on_gpu else None,
        arithmetic=spec.probe.arithmetic,
    )
    ours = _time_fork(request, lambda *done: on_step("fork", *done))
    found = found.plus(ours, device=torch.cuda.get_device_name(device) if on_gpu else "cpu")
    on_part(found)
    first = request.runs()[0]
    naive = naive_run(request, first, device, lambda *done: on_step("naive", *done))
    return found.plus(*_naive_rows(request, naive, _losses(request, first)))


def _naive_rows(request: ForkRequest, naive: NaiveRun, ours: Losses) -> tuple[Timing, Timing]:
    """The time of as many naive runs as ``request`` has, for the same rows, without EMA and LAWA, which ours evaluates.

    Numbers are of the one run that was timed. At the start the two evaluate the same weights; at the end the live
    weights differ by the rounding of every update.
    """
    runs, last = len(request.runs()), request.spec.rates.steps

    def differences(step: int) -> dict[str, float]:
        keys = [key for key in naive.losses if key[:2] == (step, "live")]
        return {variant: abs(ours[key] - naive.losses[key]) for key in keys for variant in key[2:]}

    live_s = naive.load_s + naive.training_s + naive.live_probes_s
    everything = Timing(
        f"naive: one run, timed, times {runs}",
        ours=False,
        seconds=Seconds.of([runs * (live_s + naive.average_probes_s)]),
        differences_nats=differences(0),
        against="fork at the start",
        tolerance_nats=TOLERANCES_NATS[request.spec.probe.arithmetic],
        numbers={
            "load_s": naive.load_s,
            "training_s": naive.training_s,
            "live_probes_s": naive.live_probes_s,
            "average_probes_s": naive.average_probes_s,
        },
    )
    live_only = Timing(
        "naive, live weights only",
        ours=False,
        seconds=Seconds.of([runs * live_s]),
        differences_nats=differences(last),
        against="fork at the end",
    )
    return everything, live_only


@dataclass
class NaiveRun:
    """Times and losses of one naive run."""

    load_s: float = 0.0
    training_s: float = 0.0
    live_probes_s: float = 0.0
    average_probes_s: float = 0.0
    losses: Losses = dataclasses.field(default_factory=dict)


def naive_run(
    request: ForkRequest,
    run: PlannedRun,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> NaiveRun:
    """Train and evaluate ``run`` of ``request`` with the naive loops.

    Imports and the start of CUDA, which a process pays once, are not timed.
    """
    spec, folder = request.spec, fetch(request.checkpoint)
    stored = read_weights(folder).dtype
    warm = torch.ones(64, 64, device=device, requires_grad=True)
    (warm @ warm).sum().backward()
    clock, took = Clock(device), NaiveRun()
    model = naive_model(folder, str(device))
    training = NaiveTraining(
        model, spec.optimizer, make_arm_schedule(run.arm, spec.rates), bf16=spec.precision == "bf16"
    )
    if spec.moments == "suite":
        load_moments(model, training.optimizer, read_moments(folder))
    batches = Batches(
        torch.from_numpy(request.train.tokens.astype(np.int64)).to(device),
        seq_len=spec.seq_len,
        sequences=spec.sequences,
        seed=DATA_SEED_OFFSET + run.seed,
    )
    averages = Averages(model, decay=spec.ema_decay, window=spec.lawa_window)
    took.load_s = clock.lap()

    def probe(step: int, weights: str, values: list[torch.Tensor] | None) -> None:
        found = losses_of(
            lambda: checkpoint_model(model, values, stored),
            spec.probe.variants,
            request.tokens.array,
            str(device),
        )
        took.losses |= {(step, weights, variant): nll for variant, nll in found.items()}

    def probe_all(step: int) -> None:
        averages.at_probe()
        took.training_s += clock.lap()
        probe(step, "live", None)
        took.live_probes_s += clock.lap()
        if step:  # at the start all three sets are the same weights
            probe(step, "ema", averages.ema())
            probe(step, "lawa", averages.lawa())
            took.average_probes_s += clock.lap()

    probe_all(0)
    for step in range(1, spec.rates.steps + 1):
        training.update(batches(step - 1))
        averages.after_update()
        if step in spec.probe_steps:
            probe_all(step)
        on_step(step, spec.rates.steps)
    return took


class Clock:
    """Lap times, each measured after the device has finished."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._last = device, 0.0
        self.lap()

    def lap(self) -> float:
        """Seconds since the last lap ended."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def _time_fork(request: ForkRequest, on_step: Callable[[int, int], None]) -> Timing:
    """The whole experiment: start of Ray and workers, compilation, every shard.

    Numbers: ``ray_s`` until Ray had started, ``first_run_s`` until the first run had ended, and ``run_s``, the mean of
    one run in its worker, beside the others on its GPU.
    """
    reached: list[float] = []
    seconds: list[float] = []

    def on_progress(state: Progress) -> None:
        if not reached or (state.last is not None and not seconds):
            reached.append(time.perf_counter() - start)
        if state.last is not None:
            seconds.append(state.last.seconds)
        on_step(state.done + state.failed, state.total)

    start = time.perf_counter()
    summary = execute(request, on_progress=on_progress)
    total_s = time.perf_counter() - start
    if summary.failures:
        raise CollapseError(f"the benchmark's runs failed: {next(iter(summary.failures.items()))}")
    numbers = {"ray_s": reached[0], "first_run_s": reached[1], "run_s": sum(seconds) / len(seconds)}
    return Timing("fork", ours=True, seconds=Seconds.of([total_s]), numbers=numbers)


def _losses(request: ForkRequest, run: PlannedRun) -> Losses:
    table = request.out.shards.read(run.key).table.select(["step", "weights", "variant", "nll_nats"])
    return {(row["step"], row["weights"], row["variant"]): row["nll_nats"] for row in table.to_pylist()}
