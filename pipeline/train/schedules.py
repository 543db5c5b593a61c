"""Learning-rate schedules: pure functions of the step.

``step`` counts the updates already made, so ``schedule(step)`` is the learning rate of the next update, and
the rate that led to checkpoint N is ``schedule(N - 1)``. Every schedule warms up linearly from 0, so the
first update has learning rate 0 and moves nothing: the checkpoints of steps 0 and 1 are equal, as Pythia's
are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import UsageError, unknown_name
from pipeline.suites import clipped_cosine


class Schedule(Protocol):
    """A learning rate as a function of the step."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Pythia:
    """Cosine to zero over ``steps``, clipped at ``min_lr``: see :func:`pipeline.suites.clipped_cosine`."""

    steps: int
    peak_lr: float
    min_lr: float
    warmup_steps: int

    def __call__(self, step: int) -> float:
        return clipped_cosine(
            step, steps=self.steps, peak_lr=self.peak_lr, min_lr=self.min_lr, warmup_steps=self.warmup_steps
        )


@dataclass(frozen=True)
class Cosine:
    """Cosine from ``peak_lr`` to ``min_lr``, reached at ``steps``.

    min + (peak - min)/2 * (1 + cos(pi * t)), t = (step - warmup)/(steps - warmup). Source: Hoffmann et al.
    2022 (arXiv 2203.15556), with min = peak/10; Loshchilov & Hutter 2016 (arXiv 1608.03983), eq. 5, for one
    cycle.

    >>> [f"{Cosine(110, 1.0, 0.1, 10)(step):.3f}" for step in (0, 5, 10, 60, 110)]
    ['0.000', '0.500', '1.000', '0.550', '0.100']
    """

    steps: int
    peak_lr: float
    min_lr: float
    warmup_steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        return self.min_lr + (self.peak_lr - self.min_lr) / 2 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Constant:
    """``peak_lr`` from the end of the warm-up on; ``min_lr`` is not used.

    >>> [Constant(100, 1.0, 0.1, 10)(step) for step in (0, 5, 10, 100)]
    [0.0, 0.5, 1.0, 1.0]
    """

    steps: int
    peak_lr: float
    min_lr: float
    warmup_steps: int

    def __call__(self, step: int) -> float:
        return self.peak_lr * min(1.0, step / self.warmup_steps) if self.warmup_steps else self.peak_lr


@dataclass(frozen=True)
class WarmupStableDecay:
    """``peak_lr``, then linear to ``min_lr`` over the last ``decay_fraction`` of the steps.

    Source: Hu et al. 2024 (MiniCPM, arXiv 2404.06395), section 4, with the linear decay of Hagele et al. 2024
    (arXiv 2405.18392).

    >>> [f"{WarmupStableDecay(100, 1.0, 0.0, 10)(step):.2f}" for step in (5, 50, 80, 90, 100)]
    ['0.50', '1.00', '1.00', '0.50', '0.00']
    """

    steps: int
    peak_lr: float
    min_lr: float
    warmup_steps: int
    decay_fraction: float = 0.2

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        decay_steps = max(1.0, self.decay_fraction * self.steps)
        left = min(1.0, max(0.0, (self.steps - step) / decay_steps))
        return self.min_lr + (self.peak_lr - self.min_lr) * left


SCHEDULES: dict[str, type[Pythia | Cosine | Constant | WarmupStableDecay]] = {
    "pythia": Pythia,
    "cosine": Cosine,
    "constant": Constant,
    "wsd": WarmupStableDecay,
}


def make_schedule(name: str, *, steps: int, peak_lr: float, min_lr: float, warmup_steps: int) -> Schedule:
    """The schedule called ``name``. ``UsageError`` for an unknown name and for senseless rates or steps."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    if not 0 <= min_lr <= peak_lr or not math.isfinite(peak_lr):
        raise UsageError(f"learning rates: peak {peak_lr}, minimum {min_lr}; wanted 0 <= minimum <= peak")
    if not 0 <= warmup_steps <= steps:
        raise UsageError(f"warm-up of {warmup_steps} steps in a run of {steps}: wanted 0 to {steps}")
    return SCHEDULES[name](steps=steps, peak_lr=peak_lr, min_lr=min_lr, warmup_steps=warmup_steps)
