"""``noop``: the control in which nothing moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.train.schedules.schedule import ForkRates, Schedule, register


@register
@dataclass(frozen=True)
class Noop(Schedule):
    """Learning rate 0: no weight changes (decoupled weight decay is scaled by the rate, so it is 0 too).

    >>> Noop()(7)
    0.0
    """

    name = "noop"
    scalable = False

    def __call__(self, step: int) -> float:  # noqa: ARG002 - always 0
        return 0.0

    def phase(self, step: int) -> str:  # noqa: ARG002 - one phase
        return "noop"

    @classmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> Noop:
        del rates, values
        return cls()
