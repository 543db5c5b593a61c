"""Groups of trainings compared, each training one observation: what another training of the same kind would give.

The numbers are log growths, so that a ratio of growths is a difference. Its interval is Welch's. Beside it stands an
exact test that needs no normal law: the share of all ways to deal the trainings to the two groups whose difference is
at least as large, dealt within strata where there are such, trainings of the same initial weights for example.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.statistics.curves import BoolArray, FloatArray
from pipeline.analysis.trajectory.growth import LEVEL, Power, ratio_power
from pipeline.base.errors import UsageError

MOST_WAYS = 1_000_000
"""Dealings that are counted; with more, none are, for Welch's interval needs no help there."""


@dataclass(frozen=True)
class Training:
    """One training as one observation."""

    name: str
    growth: float
    """> 0"""
    stratum: str = ""
    """Trainings are dealt to groups within their stratum."""


@dataclass(frozen=True)
class GroupRatio:
    """The growth of one group over that of another, trainings as units."""

    group: str
    against: str
    trainings: int
    trainings_against: int
    ratio: float
    """Of the geometric means."""
    lower: float | None
    """95 %, by Welch's t test on log growths; None with fewer than two trainings on a side."""
    upper: float | None
    p_value: float | None
    """Welch's, two-sided."""
    log_sd: float | None
    """Standard deviation of log growth between trainings of a group, pooled over the two."""
    permutation_p: float | None
    """Share of dealings with a difference at least as far from 0; None where there are too many to count."""
    permutation_p_one_sided: float | None
    """Share of those at least as far in the direction that is seen."""
    dealings: int
    """Ways to deal the trainings to the two groups within strata."""
    power: Power | None
    """None with fewer than two trainings on a side."""


def compare_groups(
    group: str, ours: Sequence[Training], against: str, theirs: Sequence[Training], *, threshold: float = 1.0
) -> GroupRatio:
    """``ours`` over ``theirs``, at least one training each; ``threshold``: of the rule whose power is told.

    ``UsageError`` where a training is in both groups.
    """
    twice = {each.name for each in ours} & {each.name for each in theirs}
    if twice:
        raise UsageError(
            f"{', '.join(sorted(twice))} is in both {group} and {against}: wanted each training in one"
        )
    a, b = (np.log([each.growth for each in side]) for side in (ours, theirs))
    difference = float(a.mean() - b.mean())
    strata = [each.stratum for each in (*ours, *theirs)]
    dealings = count_dealings(strata, len(ours))
    beyond = _beyond(np.concatenate([a, b]), strata, len(ours)) if dealings <= MOST_WAYS else None
    known = len(a) > 1 and len(b) > 1 and (np.ptp(a) > 0 or np.ptp(b) > 0)
    test = stats.ttest_ind(a, b, equal_var=False) if known else None
    interval = test.confidence_interval(LEVEL) if test is not None else None
    power = None
    if test is not None and test.statistic != 0:
        power = ratio_power(difference, abs(difference / test.statistic), float(test.df), threshold)
    return GroupRatio(
        group=group,
        against=against,
        trainings=len(a),
        trainings_against=len(b),
        ratio=math.exp(difference),
        lower=None if interval is None else math.exp(interval.low),
        upper=None if interval is None else math.exp(interval.high),
        p_value=None if test is None else float(test.pvalue),
        log_sd=_pooled_sd(a, b),
        permutation_p=None if beyond is None else beyond[0],
        permutation_p_one_sided=None if beyond is None else beyond[1],
        dealings=dealings,
        power=power,
    )


def count_dealings(strata: Sequence[str], n_first: int) -> int:
    """Ways to deal trainings of these ``strata``, the first ``n_first`` of them to the first group, within strata."""
    ways = 1
    for stratum in dict.fromkeys(strata):
        own = [index for index, each in enumerate(strata) if each == stratum]
        ways *= math.comb(len(own), sum(index < n_first for index in own))
    return ways


def _beyond(values: FloatArray, strata: Sequence[str], n_first: int) -> tuple[float, float]:
    """Share of the dealings whose means differ as much as those of the given one, in either and in its direction."""
    total = values.sum()
    sums = np.array([values[list(first)].sum() for first in _dealings(strata, n_first)])
    differences = sums / n_first - (total - sums) / (len(values) - n_first)
    own = values[:n_first].mean() - values[n_first:].mean()
    tolerance = 1e-12 * (1 + np.abs(values).max())  # sums of the same terms in another order
    side: BoolArray = differences >= own - tolerance if own >= 0 else differences <= own + tolerance
    return float(np.mean(np.abs(differences) >= abs(own) - tolerance)), float(np.mean(side))


def _dealings(strata: Sequence[str], n_first: int) -> Iterator[tuple[int, ...]]:
    """Indices of the first group in every dealing."""
    parts = []
    for stratum in dict.fromkeys(strata):
        own = [index for index, each in enumerate(strata) if each == stratum]
        parts.append(list(itertools.combinations(own, sum(index < n_first for index in own))))
    for chosen in itertools.product(*parts):
        yield tuple(itertools.chain.from_iterable(chosen))


def _pooled_sd(a: FloatArray, b: FloatArray) -> float | None:
    df = len(a) + len(b) - 2
    if df < 1:
        return None
    return math.sqrt((((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / df)
