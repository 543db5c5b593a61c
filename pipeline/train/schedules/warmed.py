"""Schedules that a recipe can name: a linear warm-up from 0, then a shape.

The first update has learning rate 0 and moves nothing: the checkpoints of steps 0 and 1 are equal, as Pythia's are.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.base.errors import UsageError, unknown_name
from pipeline.train.schedules.schedule import ForkRates, Schedule, schedules


@dataclass(frozen=True)
class WarmedSchedule(Schedule):
    """A schedule of a whole training run."""

    steps: int
    """Updates of the run."""
    peak_lr: float
    min_lr: float
    """The rate at the end."""
    warmup_steps: int
    """Updates after which the rate is ``peak_lr``."""

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        return self.warm_rate(step)

    def phase(self, step: int) -> str:
        return "warmup" if step < self.warmup_steps else self.warm_phase(step)

    @classmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> Self:
        return cls(rates.steps, rates.base_lr, rates.base_lr * values.get("final", 1.0), 0)

    @abstractmethod
    def warm_rate(self, step: int) -> float:
        """The rate after the warm-up."""

    @abstractmethod
    def warm_phase(self, step: int) -> str:
        """The phase after the warm-up."""


def recipe_schedules() -> dict[str, type[WarmedSchedule]]:
    """The schedules that a recipe can name, by name."""
    return {each.name: each for each in schedules if issubclass(each, WarmedSchedule)}


def make_schedule(
    name: str, *, steps: int, peak_lr: float, min_lr: float, warmup_steps: int
) -> WarmedSchedule:
    """Make the schedule ``name``. Raises UsageError for an unknown name and for impossible rates or steps."""
    known = recipe_schedules()
    if name not in known:
        raise unknown_name("schedule of a recipe", name, known)
    if not 0 <= min_lr <= peak_lr or not math.isfinite(peak_lr):
        raise UsageError(f"learning rates: peak {peak_lr}, minimum {min_lr}; wanted 0 <= minimum <= peak")
    if not 0 <= warmup_steps <= steps:
        raise UsageError(f"warm-up of {warmup_steps} steps in a run of {steps}: wanted 0 to {steps}")
    return known[name](steps=steps, peak_lr=peak_lr, min_lr=min_lr, warmup_steps=warmup_steps)
