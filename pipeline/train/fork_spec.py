"""The specification of a fork experiment: the settings that all runs share, and one run as a task."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import ALWAYS, fingerprint, pinned
from pipeline.spec import ProbeSpec
from pipeline.train.arms import Arm
from pipeline.train.schedules import ForkRates
from pipeline.train.settings import OptimizerSettings

FORK_VERSION = 1
"""Increased by hand whenever the training loop or the averages change a number, so that old shards become stale."""

DATA_SEED_OFFSET = 2**32
"""Added to the seed of a run for its data order, so that no fork repeats the order of a pretraining seed."""


@dataclass(frozen=True)
class ForkSpec:
    """Everything that can change a number of a run, except its schedule, optimizer and seed."""

    content_id: str
    """Content id of the weights that every run starts from."""
    rates: ForkRates
    """Rate at the fork, peak rate, steps and re-warm-up."""
    probe: ProbeSpec
    probe_every: int
    """Updates between probes; the start and the end are always probed."""
    sequences: int
    """Training sequences per update."""
    seq_len: int
    """Tokens per training sequence."""
    train_sha256: str
    """sha256 of the training tokens."""
    optimizer: OptimizerSettings
    moments: str
    """``cold``, or ``suite`` = Adam's moments from the suite (``pretrain --keep-optimizer-at``)."""
    precision: str
    """``fp32``, or ``bf16`` = bfloat16 autocast."""
    compiled: bool
    """Whether training is compiled (``pipeline.train.compiling``), which changes the last bits."""
    ema_decay: float
    """Decay per update of the exponential moving average of the weights."""
    lawa_window: int
    """Probes whose weights are averaged uniformly (LAWA; Kaddour 2022, arXiv 2209.14981)."""
    version: int = field(default=FORK_VERSION, metadata=ALWAYS)

    def __post_init__(self) -> None:
        for name in ("probe_every", "sequences", "seq_len", "lawa_window"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: wanted at least 1")
        if self.rates.steps < 2:
            raise UsageError(f"a run of {self.rates.steps} steps: wanted at least 2")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay {self.ema_decay}: wanted 0 to less than 1")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision {self.precision!r}: wanted fp32 or bf16")
        if self.probe_every > self.rates.steps:
            raise UsageError(
                f"a probe every {self.probe_every} steps in a run of {self.rates.steps}: wanted at most the run"
            )

    @property
    def tokens_per_step(self) -> int:
        return self.sequences * self.seq_len

    @property
    def probe_steps(self) -> tuple[int, ...]:
        """Updates after which a run is probed: 0, every ``probe_every``, the last."""
        return probe_steps(self.rates.steps, self.probe_every)

    def config(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**dataclasses.asdict(self), "probe": self.probe.config()}

    def fingerprint(self) -> str:
        """sha256 (hex) of what can change a number and is not at its default."""
        return fingerprint(pinned(ForkSpec, self.config()))


def probe_steps(steps: int, probe_every: int) -> tuple[int, ...]:
    """Updates after which a run of ``steps`` is probed: 0, every ``probe_every``, the last."""
    return (*range(0, steps, probe_every), steps)


def run_id(arm: Arm, seed: int) -> str:
    """Name of a run and of its shard, such as ``oli-amplitude0.3-seed2``."""
    return f"{arm.label}-seed{seed}"


def arm_identity(arm: Arm, seed: int) -> dict[str, Any]:
    return {"schedule": arm.schedule, **arm.settings(), "optimizer": arm.optimizer, "seed": seed}
