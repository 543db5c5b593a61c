"""Power of a t test with given errors: the smallest difference found in four cases of five."""

from __future__ import annotations

import math

from scipy import optimize, stats

POWER = 0.8
"""Power with which the smallest difference is found."""


def smallest_found(se: float, df: float, *, alpha: float = 0.05) -> float:
    """Smallest true difference that a two-sided t test claims with :data:`POWER` at level ``alpha``.

    se: standard error of the difference, with ``df`` degrees of freedom; > 0. The tail on the other side is far below
    the digits that matter.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, df))

    def excess(shift: float) -> float:
        return float(stats.nct.sf(critical, df, shift)) - POWER

    return se * float(optimize.brentq(excess, 0.0, 2 * critical + 10))


def power_of(difference: float, se: float, df: float, *, alpha: float = 0.05) -> float:
    """Probability that a two-sided t test claims a true ``difference`` in its own direction; NaN where se is 0."""
    if se == 0:
        return math.nan
    return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, df), df, difference / se))
