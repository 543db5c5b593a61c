"""Permutation tests for small samples: ranks in two groups, values within seeds.

Ties need no approximation: they have their mean rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.analysis.statistics.curves import FloatArray

ARRANGEMENTS = 99_999
"""Number of arrangements drawn for a trend."""


@dataclass(frozen=True)
class Trend:
    """A rank correlation over runs, permuted within seeds."""

    spearman_r: float
    p_value: float
    """Two-sided p value; NaN if one side does not vary."""


def rank_sum_p(a: FloatArray, b: FloatArray) -> float | None:
    """Two-sided p value of the rank-sum test, exact also with ties: twice the smaller tail over all arrangements.

    None if a side is empty.
    """
    if len(a) == 0 or len(b) == 0:
        return None
    ranks = np.rint(2 * stats.rankdata([*a, *b])).astype(np.int64)  # doubled, for mean ranks are halves
    total = int(ranks.sum())
    ways = np.zeros((len(a) + 1, total + 1))
    """Number of ranks in ``a`` and their sum -> number of arrangements."""
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : total + 1 - rank]
    own = int(ranks[: len(a)].sum())
    tail = min(ways[-1, : own + 1].sum(), ways[-1, own:].sum())
    return min(1.0, 2 * float(tail) / math.comb(len(ranks), len(a)))


def trend_within_seeds(
    values: FloatArray, outcomes: FloatArray, seeds: NDArray[np.int64], *, seed: int = 0
) -> Trend:
    """Spearman's r over runs, each with a value, an outcome and a seed, (runs,) each.

    Its p value is the share of random arrangements of the outcomes among the runs of one seed with an r at least as far
    from 0, this one counted. ``seed``: of the arrangements.
    """
    if np.ptp(values) == 0 or np.ptp(outcomes) == 0:
        return Trend(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    x, y = (stats.rankdata(each) - (len(values) + 1) / 2 for each in (values, outcomes))
    drawn = np.zeros(ARRANGEMENTS)
    for each in np.unique(seeds):
        own = seeds == each
        drawn += rng.permuted(np.tile(y[own], (ARRANGEMENTS, 1)), axis=1) @ x[own]
    observed = float(x @ y)
    beyond = int(np.sum(np.abs(drawn) >= abs(observed) - 1e-9))  # sums of the same terms in another order
    r = observed / math.sqrt(float((x @ x) * (y @ y)))
    return Trend(r, (beyond + 1) / (ARRANGEMENTS + 1))
