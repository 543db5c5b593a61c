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
from typing import Any

import numpy as np
import torch

from pipeline.base.errors import CollapseError
from pipeline.benchmark.naive import losses_of, naive_model
from pipeline.benchmark.naive_training import NaiveTraining
from pipeline.benchmark.outcome import TOLERANCES_NATS
from pipeline.models.loading import read_weights
from pipeline.runs.execute import execute
from pipeline.runs.plans import PlannedRun
from pipeline.runs.progress import Progress
from pipeline.runs.requests import ForkRequest
from pipeline.suites import fetch
from pipeline.train.arms import make_arm_schedule
from pipeline.train.averages import Averages, checkpoint_model
from pipeline.train.data import Batches
from pipeline.train.fork_spec import DATA_SEED_OFFSET
from pipeline.train.forking import read_moments
from pipeline.train.loop import choose_device
from pipeline.train.optimizers import load_moments

OnStep = Callable[[str, int, int], None]
"""Called with the side, units done and total units: runs of ours, updates of the naive run."""
OnPart = Callable[[dict[str, Any]], None]
"""Called with the results so far, as plain values, after each new result."""
Losses = dict[tuple[int, str, str], float]
"""Mean nll in nats by step, weights (live, ema, lawa) and variant."""


@dataclass(frozen=True)
class ForkRunsComparison:
    """Times and the agreement of one comparison."""

    suite: str
    device: str
    precision: str
    compiled: bool
    """Whether our training is compiled; the naive one never is."""
    runs: int
    updates: int
    tokens_per_step: int
    probes: int
    """Updates per run."""
    probe_tokens: int
    """Evaluation tokens of a probe."""
    variants: tuple[str, ...]
    runs_per_gpu: int | None
    """Our runs that share a GPU; None on the CPU. The naive run has the GPU alone."""
    ours_s: float
    """Seconds of our whole experiment: start of Ray and workers, compilation, every shard."""
    ours_ray_s: float
    """Seconds of these until Ray had started."""
    ours_first_run_s: float
    """Seconds of these until the first run had ended."""
    ours_run_s: float
    """Mean seconds of one of our runs in its worker, beside the others on its GPU."""
    naive_load_s: float
    naive_training_s: float
    """Seconds of training of one naive run, including its averages."""
    naive_live_probes_s: float
    """Seconds of one naive run for evaluating the live weights."""
    naive_average_probes_s: float
    """Seconds of one naive run for evaluating EMA and LAWA."""
    start_nll_difference_nats: float
    """Largest difference between the two at the start, where they evaluate the same weights."""
    end_nll_difference_nats: float
    """The same for the live weights at the end, which differ by the rounding of every update."""
    arithmetic: str
    """Arithmetic of our probes."""

    @property
    def naive_run_s(self) -> float:
        """Seconds of one whole naive run."""
        return self.naive_live_run_s + self.naive_average_probes_s

    @property
    def naive_live_run_s(self) -> float:
        """Seconds of one naive run that evaluates its live weights only."""
        return self.naive_load_s + self.naive_training_s + self.naive_live_probes_s

    @property
    def ratio(self) -> float:
        """Time of the naive runs in sequence over ours, for the same rows."""
        return self.runs * self.naive_run_s / self.ours_s

    @property
    def live_ratio(self) -> float:
        """The same for naive runs that never evaluate EMA or LAWA, which ours still does."""
        return self.runs * self.naive_live_run_s / self.ours_s

    @property
    def disagreement(self) -> str | None:
        """The fault if the losses at the start differ by more than rounding (``outcome.TOLERANCES_NATS``)."""
        limit = TOLERANCES_NATS[self.arithmetic]
        if limit is None or self.start_nll_difference_nats <= limit:
            return None
        return f"the two disagree by more than {limit:g} nats at the start"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the fields, derived numbers, and the meaning of the naive number."""
        return {
            "complete": True,
            **dataclasses.asdict(self),
            "naive_run_s": self.naive_run_s,
            "naive_runs_s": self.runs * self.naive_run_s,
            "naive_is": self._naive_is,
            "ratio": self.ratio,
            "live_ratio": self.live_ratio,
        }

    def lines(self) -> list[str]:
        """The comparison as text."""
        kind = "compiled" if self.compiled else "not compiled"
        probing_s = self.naive_live_probes_s + self.naive_average_probes_s
        sharing = "" if self.runs_per_gpu is None else f", {self.runs_per_gpu} at a time on a GPU"
        return [
            f"{self.suite} on {self.device}, {self.precision}: {self.runs} runs of {self.updates:,} updates of "
            f"{self.tokens_per_step:,} tokens",
            f"{self.probes} probes of each: {self.probe_tokens:,} tokens, {', '.join(self.variants)}, "
            "live + EMA + LAWA",
            f"fork, {kind:<15} {self.ours_s:9.1f} s in total, start included; {self.ours_s / self.runs:.1f} s per run"
            f" ({self.ours_run_s:.1f} s in its worker{sharing})",
            f"                      {self.ours_ray_s:9.1f} s until Ray was there, {self.ours_first_run_s:.1f} s until "
            "the first run had ended",
            f"naive, one run        {self.naive_run_s:9.1f} s: {self.naive_load_s:.1f} s loading, "
            f"{self.naive_training_s:.1f} s training, {probing_s:.1f} s probing",
            f"naive, {self.runs:>3} runs       {self.runs * self.naive_run_s:9.1f} s, {self._naive_is}",
            f"ratio                 {self.ratio:9.2f}   ({self.live_ratio:.2f} if naive runs probe live weights only)",
            f"largest difference    {self.start_nll_difference_nats:9.1e} nats at the start, "
            f"{self.end_nll_difference_nats:.1e} at the end",
        ]

    @property
    def _naive_is(self) -> str:
        return f"one run, timed, times {self.runs}"


def compare_fork_runs(
    request: ForkRequest, on_step: OnStep = lambda *_: None, on_part: OnPart = lambda _: None
) -> ForkRunsComparison:
    """Run ``request`` into its empty folder, then its first run naively in this process.

    Workers must find the GPU free, so this process uses it only after they have ended.
    """
    spec, resources = request.spec, request.resources
    device = choose_device(resources.device)
    found: dict[str, Any] = {
        "suite": request.suite,
        "precision": spec.precision,
        "compiled": spec.compiled,
        "runs": len(request.runs()),
        "updates": spec.rates.steps,
        "tokens_per_step": spec.tokens_per_step,
        "probes": len(spec.probe_steps),
        "probe_tokens": spec.probe.shape.n_tokens,
        "variants": tuple(map(str, spec.probe.variants)),
        "runs_per_gpu": int(1 / resources.gpu_share + 1e-9) if device.type == "cuda" else None,
        "arithmetic": spec.probe.arithmetic,
    }

    def add(**fields: Any) -> None:
        found.update(fields)
        on_part(dict(found))

    ours = _time_fork(request, lambda *done: on_step("fork", *done))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    add(
        device=name,
        ours_s=ours.total_s,
        ours_ray_s=ours.ray_s,
        ours_first_run_s=ours.first_run_s,
        ours_run_s=ours.run_s,
    )
    first = request.runs()[0]
    naive = naive_run(request, first, device, lambda *done: on_step("naive", *done))
    losses = _losses(request, first)
    last = spec.rates.steps

    def largest(step: int) -> float:
        there = [key for key in naive.losses if key[0] == step and key[1] == "live"]
        return float(np.max([abs(losses[key] - naive.losses[key]) for key in there]))

    add(
        naive_load_s=naive.load_s,
        naive_training_s=naive.training_s,
        naive_live_probes_s=naive.live_probes_s,
        naive_average_probes_s=naive.average_probes_s,
        start_nll_difference_nats=largest(0),
        end_nll_difference_nats=largest(last),
    )
    return ForkRunsComparison(**found)


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
        torch.from_numpy(request.train.astype(np.int64)).to(device),
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


@dataclass(frozen=True)
class _Fork:
    total_s: float
    ray_s: float
    first_run_s: float
    run_s: float


def _time_fork(request: ForkRequest, on_step: Callable[[int, int], None]) -> _Fork:
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
    return _Fork(total_s, reached[0], reached[1], sum(seconds) / len(seconds))


def _losses(request: ForkRequest, run: PlannedRun) -> Losses:
    """Losses of our run, from its shard."""
    table = request.out.shards.read(run.key).table.select(["step", "weights", "variant", "nll_nats"])
    return {(row["step"], row["weights"], row["variant"]): row["nll_nats"] for row in table.to_pylist()}
