"""Compare groups of trainings, each training one observation.

The numbers are log growths, so that a ratio of growths is a difference. Its interval is Welch's. An exact test
needs no normal law: the share of all assignments of the trainings to the two groups whose difference is at least as
large, within strata if given, such as trainings with the same initial weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.contrasts import welch_estimate
from pipeline.analysis.statistics.curves import BoolArray, FloatArray
from pipeline.analysis.trajectory.growth import Power, ratio_power
from pipeline.base.errors import UsageError

MOST_WAYS = 1_000_000
"""Largest number of permutations that are counted; with more trainings Welch's interval suffices."""


@dataclass(frozen=True)
class Training:
    """One training as one observation."""

    name: str
    growth: float
    """> 0"""
    stratum: str = ""
    """Trainings are permuted within their stratum."""


@dataclass(frozen=True)
class GroupRatio:
    """The growth of one group over that of another, trainings as units."""

    group: str
    against: str
    trainings: int
    trainings_against: int
    ratio: float
    """Ratio of the geometric means."""
    lower: float | None
    """95 %, by Welch's t test on log growths; None with fewer than two trainings on a side."""
    upper: float | None
    p_value: float | None
    """Welch's, two-sided."""
    log_sd: float | None
    """Standard deviation of log growth between trainings of a group, pooled over the two."""
    permutation_p: float | None
    """Share of permutations with a difference at least as far from 0; None if there are too many."""
    permutation_p_one_sided: float | None
    """Share of permutations at least as far in the observed direction."""
    dealings: int
    """Number of permutations of the trainings between the two groups within strata."""
    power: Power | None
    """None with fewer than two trainings on a side."""


def compare_groups(
    group: str, ours: Sequence[Training], against: str, theirs: Sequence[Training], *, threshold: float = 1.0
) -> GroupRatio:
    """Compare ``ours`` with ``theirs``, at least one training each; ``threshold``: of the rule whose power is
    reported.

    Raises UsageError if a training is in both groups.
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
    test = welch_estimate(a, b)
    power = None
    if test.runs_se is not None and test.df is not None and (np.ptp(a) > 0 or np.ptp(b) > 0):
        power = ratio_power(difference, test.runs_se, test.df, threshold)
    known = power is not None  # without any scatter there is no test
    return GroupRatio(
        group=group,
        against=against,
        trainings=len(a),
        trainings_against=len(b),
        ratio=math.exp(difference),
        lower=math.exp(test.lower) if known and test.lower is not None else None,
        upper=math.exp(test.upper) if known and test.upper is not None else None,
        p_value=test.p_value if known else None,
        log_sd=_pooled_sd(a, b),
        permutation_p=None if beyond is None else beyond[0],
        permutation_p_one_sided=None if beyond is None else beyond[1],
        dealings=dealings,
        power=power,
    )


def count_dealings(strata: Sequence[str], n_first: int) -> int:
    """Number of permutations of trainings with these ``strata``, of which the first ``n_first`` are the first
    group.
    """
    return math.prod(math.comb(len(own), n_own) for own, n_own in _by_stratum(strata, n_first))


def _by_stratum(strata: Sequence[str], n_first: int) -> list[tuple[list[int], int]]:
    """Indices of the trainings of each stratum, and how many of them are in the first group."""
    own = [[i for i, each in enumerate(strata) if each == stratum] for stratum in dict.fromkeys(strata)]
    return [(each, sum(index < n_first for index in each)) for each in own]


def _beyond(values: FloatArray, strata: Sequence[str], n_first: int) -> tuple[float, float]:
    """Shares of permutations whose means differ at least as much, in either and in the observed direction."""
    total = values.sum()
    sums = np.array([values[list(first)].sum() for first in _dealings(strata, n_first)])
    differences = sums / n_first - (total - sums) / (len(values) - n_first)
    own = values[:n_first].mean() - values[n_first:].mean()
    tolerance = 1e-12 * (1 + np.abs(values).max())  # sums of the same terms in another order
    side: BoolArray = differences >= own - tolerance if own >= 0 else differences <= own + tolerance
    return float(np.mean(np.abs(differences) >= abs(own) - tolerance)), float(np.mean(side))


def _dealings(strata: Sequence[str], n_first: int) -> Iterator[tuple[int, ...]]:
    """Indices of the first group in every permutation."""
    parts = [itertools.combinations(own, n_own) for own, n_own in _by_stratum(strata, n_first)]
    for chosen in itertools.product(*parts):
        yield tuple(itertools.chain.from_iterable(chosen))


def _pooled_sd(a: FloatArray, b: FloatArray) -> float | None:
    df = len(a) + len(b) - 2
    if df < 1:
        return None
    return math.sqrt((((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / df)
