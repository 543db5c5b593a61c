"""Tests by permutation, against SciPy where it is exact and against every arrangement where it is not."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.statistics.permutation import rank_sum_p, trend_within_seeds


@pytest.mark.parametrize("sizes", [(1, 5), (4, 5), (9, 9)])
def test_without_ties_the_rank_sum_test_is_the_exact_one_of_scipy(sizes):
    rng = np.random.default_rng(sum(sizes))
    for shift in (0.0, 1.0, 5.0):
        a, b = rng.normal(shift, 1, sizes[0]), rng.normal(0, 1, sizes[1])
        expected = stats.mannwhitneyu(a, b, alternative="two-sided", method="exact").pvalue
        assert rank_sum_p(a, b) == pytest.approx(expected)
        assert rank_sum_p(b, a) == pytest.approx(expected)


def test_with_ties_it_is_that_of_every_arrangement_and_not_below_the_smallest_that_there_is():
    a, b = np.array([2.0, 2.0, 3.0, 5.0]), np.array([1.0, 2.0, 3.0, 3.0, 4.0])
    ranks = stats.rankdata([*a, *b])
    sums = np.array([sum(dealt) for dealt in itertools.combinations(ranks, len(a))])
    own = ranks[: len(a)].sum()
    assert rank_sum_p(a, b) == pytest.approx(2 * min(np.mean(sums <= own), np.mean(sums >= own)))
    constant, apart = np.full(5, 9.0), np.arange(5.0)
    assert rank_sum_p(constant, apart) == pytest.approx(2 / math.comb(10, 5))
    assert stats.mannwhitneyu(constant, apart, method="asymptotic").pvalue < 2 / math.comb(10, 5)
    assert rank_sum_p(constant, constant) == 1.0
    assert rank_sum_p(np.empty(0), apart) is None


def test_a_trend_is_as_rare_as_among_all_arrangements_within_seeds():
    values = np.tile([0.1, 0.3, 1.0, 3.0], 3)
    seeds = np.repeat([0, 1, 2], 4)
    outcomes = np.array([5.0, 5.5, 4.0, 3.0, 6.0, 5.9, 6.1, 3.5, 4.9, 4.2, 5.3, 4.1])
    found = trend_within_seeds(values, outcomes, seeds)
    assert found.spearman_r == pytest.approx(stats.spearmanr(values, outcomes).statistic)
    x, y = stats.rankdata(values), stats.rankdata(outcomes)
    within = [
        [np.dot(x[:4], order) for order in itertools.permutations(y[seeds == seed])] for seed in range(3)
    ]
    sums = np.array([sum(each) for each in itertools.product(*within)])
    centre = len(x) * x.mean() * y.mean()
    exact = np.mean(np.abs(sums - centre) >= abs(np.dot(x, y) - centre) - 1e-9)
    assert 0.001 < exact < 0.1
    assert found.p_value == pytest.approx(exact, rel=0.1)
    assert found == trend_within_seeds(values, outcomes, seeds)


def test_what_the_seeds_differ_in_is_no_trend_and_hides_none():
    values, seeds = np.tile([1.0, 2.0, 3.0, 4.0], 3), np.repeat([0, 1, 2], 4)
    by_seed_alone = trend_within_seeds(values, 10.0 * seeds, seeds)
    assert by_seed_alone.p_value == 1.0
    both = trend_within_seeds(values, 10.0 * seeds + values, seeds)
    assert both.p_value < 0.001 < 0.05 < stats.spearmanr(values, 10.0 * seeds + values).pvalue


def test_where_nothing_varies_there_is_no_trend():
    constant = trend_within_seeds(np.arange(6.0), np.ones(6), np.repeat([0, 1], 3))
    assert math.isnan(constant.spearman_r)
    assert math.isnan(constant.p_value)
