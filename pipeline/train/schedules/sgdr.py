"""``sgdr``: cosine with warm restarts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.train.schedules.schedule import FINAL, PERIOD, ForkRates, Parameter, Schedule, register, whole


def _t_mult_problem(value: float, _rates: ForkRates) -> str | None:
    return None if whole(value, 1) else f"t_mult {value:g}; wanted a whole number of at least 1"


@register
@dataclass(frozen=True)
class WarmRestarts(Schedule):
    """SGDR: cosine from ``eta_max`` to ``eta_min`` in cycles of period, period * t_mult, period * t_mult^2, ...

    eta_min + (eta_max - eta_min)/2 * (1 + cos(pi * T_cur / T_i)). Source: Loshchilov & Hutter 2016 (arXiv
    1608.03983), eq. 5; T_0 = ``period``, T_mult = ``t_mult``. The first half of a cycle is its ``restart``, the
    second half its ``anneal``.

    >>> sgdr = WarmRestarts(eta_max=1.0, eta_min=0.0, period=10, t_mult=2)
    >>> [f"{sgdr(step):.2f}" for step in (0, 5, 9, 10, 20, 30)], sgdr.phase(4), sgdr.phase(5)
    (['1.00', '0.50', '0.02', '1.00', '0.50', '1.00'], 'restart', 'anneal')
    """

    name = "sgdr"
    title = "SGDR"
    parameters = (
        Parameter(
            "eta_max",
            "rate after a restart",
            lambda rates: rates.peak_lr,
            "the peak rate of the suite's training",
        ),
        FINAL,
        PERIOD,
        Parameter("t_mult", "length of a cycle in lengths of the one before", 1.0, problem=_t_mult_problem),
    )
    shaded = frozenset({"restart"})

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

    @classmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> WarmRestarts:
        low = rates.base_lr * values["final"]
        return cls(values["eta_max"], low, int(values["period"]), int(values["t_mult"]))

    def _cycle(self, step: int) -> tuple[int, int]:
        """Updates since the last restart, and the length of this cycle."""
        length = self.period
        while step >= length:
            step -= length
            if self.t_mult == 1:
                return step % length, length
            length *= self.t_mult
        return step, length
