"""The interface of a schedule, its declarations, and the registry of all schedules.

``step`` counts the updates already made, so ``schedule(step)`` is the learning rate of the next update, and the rate
that led to checkpoint N is ``schedule(N - 1)``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.base.plugins import Registry


@dataclass(frozen=True)
class ForkRates:
    """Rates and lengths that the schedules of one fork experiment share."""

    base_lr: float
    """Learning rate at the fork."""
    peak_lr: float
    """Highest rate of the suite's training, to which warm restarts return."""
    steps: int
    """Updates of a run."""
    rewarm_steps: int = 0
    """Length of the ramp for cold moments."""


Problem = Callable[[float, ForkRates], str | None]
"""Function that returns the fault of a parameter value, as the end of the sentence ``ARM: ...``, or None."""


def nothing(_value: float, _rates: ForkRates) -> str | None:
    """The :data:`Problem` of a parameter that accepts every number of at least 0."""
    return None


@dataclass(frozen=True)
class Parameter:
    """A parameter of a schedule, ``--schedules NAME:parameter=number``; always finite and at least 0."""

    name: str
    """Lower-case letters and underscores."""
    meaning: str
    """Its meaning, with its unit, for ``fork --help``."""
    default: float | Callable[[ForkRates], float] | None
    """Default value, or a function of the experiment's rates; None = the parameter is optional."""
    shown: str = ""
    """The default in words, if it is a function."""
    problem: Problem = nothing

    def default_for(self, rates: ForkRates) -> float | None:
        return self.default(rates) if callable(self.default) else self.default

    @property
    def default_text(self) -> str:
        """The default for a help text, such as ``0.1``."""
        return f"{self.default:g}" if isinstance(self.default, int | float) else self.shown


@dataclass(frozen=True)
class ComparedPhase:
    """The one phase of a schedule whose probes are compared with the baseline."""

    phase: str
    """Label of the phase."""
    adjective: str
    """Adjective for sentences: "in its ADJECTIVE phases"."""


class Schedule(ABC):
    """A learning rate as a function of the step. Subclasses are frozen dataclasses, one file each."""

    name: ClassVar[str]
    """Name in ``--schedules NAME``."""
    title: ClassVar[str] = ""
    """Name in prose; empty = ``name``."""
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    shaded: ClassVar[frozenset[str]] = frozenset()
    """Phases with a raised rate, which charts shade."""
    compared: ClassVar[ComparedPhase | None] = None
    """The compared phase; None = all probes after the start and the ramp."""
    scalable: ClassVar[bool] = True
    """Whether its mean rate can be set (:data:`MEAN_FACTOR`)."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Learning rate of the update after ``step`` updates."""

    @abstractmethod
    def phase(self, step: int) -> str:
        """Label of the phase of the update after ``step`` updates."""

    @classmethod
    @abstractmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> Schedule:
        """Make the schedule of a run with these rates; ``values`` has every one of ``parameters``."""

    @classmethod
    def settings_for(cls, probe_every: int) -> dict[str, float]:
        """Parameters for a short run with a probe every ``probe_every`` updates, one of them in the compared phase."""
        del probe_every
        return {}

    @classmethod
    def accepted(cls) -> dict[str, Parameter]:
        """Name -> parameter, for every parameter that an arm of this schedule accepts."""
        return {each.name: each for each in (*cls.parameters, *((MEAN_FACTOR,) if cls.scalable else ()))}


schedules: Registry[type[Schedule]] = Registry("schedule", "pipeline.train.schedules")
register = schedules.register


def mean_rate(schedule: Callable[[int], float], steps: int) -> float:
    """Mean learning rate of the first ``steps`` updates.

    >>> mean_rate(lambda step: float(step), 4)
    1.5
    """
    return math.fsum(schedule(step) for step in range(steps)) / steps


def whole(value: float, least: int) -> bool:
    """Whether ``value`` is a whole number and at least ``least``."""
    return value >= least and value == int(value)


def _final_problem(value: float, _rates: ForkRates) -> str | None:
    return f"final {value:g}; wanted at most 1, a multiple of the rate at the fork" if value > 1 else None


def _period_problem(value: float, rates: ForkRates) -> str | None:
    if not whole(value, 2):
        return f"period {value:g}; wanted a whole number of at least 2 steps"
    if value > rates.steps:
        return (
            f"its period of {value:,.0f} steps is longer than the run of {rates.steps:,}: "
            f"give period={rates.steps // 4 or 2} or more --steps"
        )
    return None


def fraction_problem(name: str, *, below_one: bool = False) -> Problem:
    """The :data:`Problem` of a share: more than 0 and at most 1 (or less than 1)."""

    def problem(value: float, _rates: ForkRates) -> str | None:
        if 0 < value < 1 or (value == 1 and not below_one):
            return None
        return f"{name} {value:g}; wanted more than 0 and {'less than' if below_one else 'at most'} 1"

    return problem


FINAL = Parameter("final", "last rate as a multiple of the rate at the fork", 0.1, problem=_final_problem)
PERIOD = Parameter(
    "period",
    "updates of the first cycle",
    lambda rates: float(max(2, rates.steps // 4)),
    "a quarter of the run",
    _period_problem,
)
MEAN_FACTOR = Parameter(
    "mean_factor", "mean rate of the run as a multiple of the rate at the fork", None, "its own mean"
)
"""No default: without it the schedule is not scaled, and the runs' identity does not contain it."""
