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
from pipeline.suites.settings import clipped_cosine


class Schedule(Protocol):
    """A learning rate as a function of the step."""

    def __call__(self, step: int) -> float: ...

    def phase(self, step: int) -> str:
        """Which part of the schedule the update after ``step`` updates belongs to."""
        ...


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

    def phase(self, step: int) -> str:
        if step < self.warmup_steps:
            return "warmup"
        return "decay" if self(step) > self.min_lr else "minimum"


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

    def phase(self, step: int) -> str:
        return "warmup" if step < self.warmup_steps else "decay"


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

    def phase(self, step: int) -> str:
        return "warmup" if step < self.warmup_steps else "stable"


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

    def phase(self, step: int) -> str:
        if step < self.warmup_steps:
            return "warmup"
        return "stable" if step <= self.steps - max(1.0, self.decay_fraction * self.steps) else "decay"


@dataclass(frozen=True)
class WarmRestarts:
    """SGDR: cosine from ``eta_max`` to ``eta_min`` in cycles of period, period * t_mult, period * t_mult^2, ...

    eta_min + (eta_max - eta_min)/2 * (1 + cos(pi * T_cur / T_i)). Source: Loshchilov & Hutter 2016 (arXiv
    1608.03983), eq. 5; T_0 = ``period``, T_mult = ``t_mult``. The first half of a cycle is its ``restart``, the
    second half its ``anneal``.

    >>> sgdr = WarmRestarts(eta_max=1.0, eta_min=0.0, period=10, t_mult=2)
    >>> [f"{sgdr(step):.2f}" for step in (0, 5, 9, 10, 20, 30)], sgdr.phase(4), sgdr.phase(5)
    (['1.00', '0.50', '0.02', '1.00', '0.50', '1.00'], 'restart', 'anneal')
    """

    eta_max: float
    eta_min: float
    period: int
    """Updates of the first cycle."""
    t_mult: int = 1
    """Each cycle is this many times as long as the one before."""

    def __call__(self, step: int) -> float:
        done, length = self._cycle(step)
        return self.eta_min + (self.eta_max - self.eta_min) / 2 * (1 + math.cos(math.pi * done / length))

    def phase(self, step: int) -> str:
        done, length = self._cycle(step)
        return "restart" if 2 * done < length else "anneal"

    def _cycle(self, step: int) -> tuple[int, int]:
        """Updates since the last restart, and the length of this cycle."""
        length = self.period
        while step >= length:
            step -= length
            if self.t_mult == 1:
                return step % length, length
            length *= self.t_mult
        return step, length


@dataclass(frozen=True)
class LockIn:
    """Oscillatory Lock-In (OLI) as WE read it: cycles of a bump and a cool phase on top of a base schedule.

    In the first ``bump_fraction`` of a cycle the rate is base * (1 + amplitude * sin^2(pi * u)), u from 0 to 1:
    raised smoothly to (1 + amplitude) times the base and back. In the rest, the cool phase, it is base *
    cool_factor; the last ``settled_fraction`` of the cool phase is ``settled``, and only probes of settled weights
    are compared. Source: arXiv 2604.15167 names the phases and says that the amplitude is calibrated; it gives no
    formula, period or amplitude, so these are ours.

    >>> oli = LockIn(Constant(80, 1.0, 0.0, 0), period=20, amplitude=0.5, cool_factor=0.5)
    >>> [round(oli(step), 3) for step in (0, 5, 10, 19, 25)], [oli.phase(step) for step in (9, 10, 15)]
    ([1.0, 1.5, 0.5, 0.5, 1.5], ['bump', 'cool', 'settled'])
    """

    base: Schedule
    period: int
    """Updates of a cycle."""
    amplitude: float
    """Height of the bump as a multiple of the base rate."""
    cool_factor: float
    """Rate of the cool phase as a multiple of the base rate."""
    bump_fraction: float = 0.5
    settled_fraction: float = 0.5

    def __call__(self, step: int) -> float:
        within, bump = step % self.period, self.bump_fraction * self.period
        if within < bump:
            return self.base(step) * (1 + self.amplitude * math.sin(math.pi * within / bump) ** 2)
        return self.base(step) * self.cool_factor

    def phase(self, step: int) -> str:
        within, bump = step % self.period, self.bump_fraction * self.period
        if within < bump:
            return "bump"
        return "settled" if within >= self.period - self.settled_fraction * (self.period - bump) else "cool"


@dataclass(frozen=True)
class Noop:
    """Learning rate 0: nothing may move (decoupled weight decay is scaled by the rate, so it rests too).

    >>> Noop()(7)
    0.0
    """

    def __call__(self, step: int) -> float:  # noqa: ARG002 - the protocol's argument
        return 0.0

    def phase(self, step: int) -> str:  # noqa: ARG002
        return "noop"


@dataclass(frozen=True)
class Scaled:
    """``inner`` times ``factor``: the same shape at another level.

    >>> [Scaled(WarmRestarts(1.0, 0.0, period=4), 0.5)(step) for step in (0, 2, 4)]
    [0.5, 0.25, 0.5]
    """

    inner: Schedule
    factor: float

    def __call__(self, step: int) -> float:
        return self.inner(step) * self.factor

    def phase(self, step: int) -> str:
        return self.inner.phase(step)


@dataclass(frozen=True)
class Rewarmed:
    """``inner`` times a linear ramp over the first ``ramp_steps`` updates, while cold Adam moments fill.

    Without it the first updates, whose second moments rest on a handful of gradients, are larger than any that the
    schedule means.

    >>> [Rewarmed(Constant(10, 1.0, 0.0, 0), 4)(step) for step in (0, 1, 3, 4)]
    [0.25, 0.5, 1.0, 1.0]
    """

    inner: Schedule
    ramp_steps: int

    def __call__(self, step: int) -> float:
        return (
            self.inner(step) * min(1.0, (step + 1) / self.ramp_steps) if self.ramp_steps else self.inner(step)
        )

    def phase(self, step: int) -> str:
        return "rewarm" if step < self.ramp_steps else self.inner.phase(step)


def mean_rate(schedule: Schedule, steps: int) -> float:
    """Mean learning rate of the first ``steps`` updates.

    >>> mean_rate(WarmRestarts(1.0, 0.0, period=4), 8)
    0.625
    """
    return math.fsum(schedule(step) for step in range(steps)) / steps


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
