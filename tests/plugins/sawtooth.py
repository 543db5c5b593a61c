"""A schedule as a plug-in: a linear sawtooth; only probes in the low half of a tooth are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.train.schedules import PERIOD, ComparedPhase, ForkRates, Parameter, Schedule, register


@register
@dataclass(frozen=True)
class Sawtooth(Schedule):
    """From ``height`` times the rate at the fork down to 0, again and again."""

    name = "sawtooth"
    parameters = (
        Parameter("height", "rate at the top of a tooth as a multiple of the rate at the fork", 2.0),
        PERIOD,
    )
    shaded = frozenset({"high"})
    compared = ComparedPhase("low", "low")

    top_lr: float
    period: int
    """Updates of a tooth."""

    def __call__(self, step: int) -> float:
        return self.top_lr * (1 - step % self.period / self.period)

    def phase(self, step: int) -> str:
        return "high" if 2 * (step % self.period) < self.period else "low"

    @classmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> Sawtooth:
        return cls(values["height"] * rates.base_lr, int(values["period"]))
