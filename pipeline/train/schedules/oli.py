"""``oli``: Oscillatory Lock-In."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.train.schedules.cosine import Cosine
from pipeline.train.schedules.schedule import (
    FINAL,
    PERIOD,
    ComparedPhase,
    ForkRates,
    Parameter,
    Schedule,
    fraction_problem,
    register,
)

MIN_PERIOD = 4
"""Updates of the shortest cycle that ends in a settled phase."""


@register
@dataclass(frozen=True)
class LockIn(Schedule):
    """Oscillatory Lock-In (OLI) as WE read it: cycles of a bump and a cool phase on top of a base schedule.

    In the first ``bump_fraction`` of a cycle the rate is base * (1 + amplitude * sin^2(pi * u)), u from 0 to 1:
    raised smoothly to (1 + amplitude) times the base and back. In the rest, the cool phase, it is base *
    cool_factor; the last ``settled_fraction`` of the cool phase is ``settled``, and only probes of settled weights
    are compared. Source: arXiv 2604.15167 names the phases and says that the amplitude is calibrated; it gives no
    formula, period or amplitude, so these are ours.

    >>> oli = LockIn(lambda step: 1.0, period=20, amplitude=0.5, cool_factor=0.5)
    >>> [round(oli(step), 3) for step in (0, 5, 10, 19, 25)], [oli.phase(step) for step in (9, 10, 15)]
    ([1.0, 1.5, 0.5, 0.5, 1.5], ['bump', 'cool', 'settled'])
    """

    name = "oli"
    title = "OLI"
    parameters = (
        Parameter("amplitude", "height of the bump as a multiple of the base rate", 0.3),
        Parameter(
            "bump_fraction",
            "share of a cycle that is its bump",
            0.5,
            problem=fraction_problem("bump_fraction", below_one=True),
        ),
        Parameter("cool_factor", "rate of the cool phase as a multiple of the base rate", 0.5),
        FINAL,
        PERIOD,
        Parameter(
            "settled_fraction",
            "last share of the cool phase, which is compared",
            0.5,
            problem=fraction_problem("settled_fraction"),
        ),
    )
    shaded = frozenset({"bump"})
    compared = ComparedPhase("settled", "settled cool")

    base: Callable[[int], float]
    """The base schedule that the cycles modulate."""
    period: int
    """Updates per cycle."""
    amplitude: float
    cool_factor: float
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

    @classmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> LockIn:
        shape = {
            name: values[name] for name in ("amplitude", "cool_factor", "bump_fraction", "settled_fraction")
        }
        return cls(Cosine.from_fork(rates, values), int(values["period"]), **shape)

    @classmethod
    def settings_for(cls, probe_every: int) -> dict[str, float]:
        """The shortest period with a probe at the end of every cycle."""
        return {"period": float(-(-MIN_PERIOD // probe_every) * probe_every)}
