"""Whether the learning rate still has to fall, which may lower the loss by more than it rose before.

The planned rates decide if given, else the minimum if given; otherwise only a rate of zero is known to be final. A
constant rate may be the plateau before a decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.base.errors import UsageError

SAME = 1e-3
"""Rates within this share of each other are equal."""
AT_ZERO = 1e-6
"""A rate at most this share of its peak has fallen to zero."""
MOST_LOOKED_AT = 10_000
"""Largest number of planned steps that are checked; of a longer plan, evenly spaced ones and the last."""


@dataclass(frozen=True)
class RateOutlook:
    """Known facts about the rates to come."""

    plan_steps: int
    """Training steps of the whole run."""
    min_learning_rate: float | None = None
    """The lowest rate of the plan; None = not known."""
    planned_rate: Callable[[int], float] | None = None
    """Step -> rate; None = not known."""

    def __post_init__(self) -> None:
        lowest = self.min_learning_rate
        if lowest is not None and not (math.isfinite(lowest) and lowest >= 0):
            raise UsageError(f"min_learning_rate {lowest}: wanted a finite rate of 0 or more")

    def may_fall(self, step: int, rates: Sequence[float | None]) -> str | None:
        """Why the rate may still fall after ``step``, in one sentence; None if it cannot.

        ``rates``: the rate at each observation so far, this one last; None if not given.
        """
        if not rates or rates[-1] is None:
            return "the learning rate was not given, so it may still have to fall: give learning_rate"
        rate, known = rates[-1], [each for each in rates if each is not None]
        if self.planned_rate is not None:
            return self._by_plan(step, rate)
        if self.min_learning_rate is None:
            if max(known) > 0 and rate <= AT_ZERO * max(known):
                return None
            return (
                f"the learning rate is {rate:.3g} and its minimum is not known, so it may still have to fall: give "
                "min_learning_rate or planned_rate"
            )
        if rate > self.min_learning_rate * (1 + SAME):
            return f"the learning rate still has to fall from {rate:.3g} to {self.min_learning_rate:.3g}"
        fell = max(known) > rate * (1 + SAME)
        stands = len(known) > 1 and math.isclose(known[-2], rate, rel_tol=SAME)
        return None if fell or stands else f"the learning rate {rate:.3g} is still warming up"

    def _by_plan(self, step: int, rate: float) -> str | None:
        assert self.planned_rate is not None
        stride = max(1, math.ceil((self.plan_steps - step) / MOST_LOOKED_AT))
        ahead = [*range(step + 1, self.plan_steps, stride), self.plan_steps] if step < self.plan_steps else []
        lowest = min((float(self.planned_rate(each)) for each in ahead), default=rate)
        if lowest < rate * (1 - SAME):
            return f"the learning rate still has to fall from {rate:.3g} to {lowest:.3g}"
        return None
