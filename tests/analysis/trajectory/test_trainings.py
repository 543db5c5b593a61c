"""Groups of trainings, against SciPy and against every dealing counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.trajectory.trainings import Training, compare_groups, count_dealings
from pipeline.base.errors import UsageError

SLOW, FAST = (0.96, 1.08, 1.02, 0.97), (1.36, 1.41, 1.25, 1.22, 1.27)


def trainings(prefix: str, growths: tuple[float, ...], strata: str = "") -> list[Training]:
    return [
        Training(f"{prefix}{index}", growth, strata[index] if strata else "")
        for index, growth in enumerate(growths)
    ]


def test_the_interval_is_welchs_on_log_growths():
    found = compare_groups("fast", trainings("f", FAST), "slow", trainings("s", SLOW))
    test = stats.ttest_ind(np.log(FAST), np.log(SLOW), equal_var=False)
    interval = test.confidence_interval(0.95)
    assert found.ratio == pytest.approx(stats.gmean(FAST) / stats.gmean(SLOW))
    assert (found.lower, found.upper) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.trainings, found.trainings_against) == (5, 4)


def test_equal_growths_on_one_side_have_an_interval_and_no_warning():
    found = compare_groups("same", trainings("f", (1.2, 1.2)), "slow", trainings("s", (1.1, 1.3, 1.0)))
    scatter = np.log((1.1, 1.3, 1.0)).std(ddof=1) / math.sqrt(3)
    half = stats.t.ppf(0.975, 2) * scatter
    assert (found.lower, found.upper) == pytest.approx(
        (found.ratio / math.exp(half), found.ratio * math.exp(half))
    )
    equal = compare_groups("same", trainings("f", (1.2, 1.2, 1.2)), "slow", trainings("s", (1.1, 1.1)))
    assert (equal.lower, equal.p_value, equal.power) == (None, None, None)


def test_without_strata_the_exact_test_is_that_of_scipy():
    ours, theirs = (1.1, 1.3, 0.9, 1.2), (1.0, 1.05, 0.8)
    found = compare_groups("a", trainings("a", ours), "b", trainings("b", theirs))
    for alternative, p_value in (("greater", found.permutation_p_one_sided), ("two-sided", None)):
        test = stats.permutation_test(
            (np.log(ours), np.log(theirs)),
            lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
            alternative=alternative,
            n_resamples=np.inf,
        )
        if p_value is not None:
            assert p_value == pytest.approx(test.pvalue)
    differences = [
        np.mean([v for i, v in enumerate(np.log([*ours, *theirs])) if i in first])
        - np.mean([v for i, v in enumerate(np.log([*ours, *theirs])) if i not in first])
        for first in itertools.combinations(range(7), 4)
    ]
    own = np.log(ours).mean() - np.log(theirs).mean()
    assert found.permutation_p == pytest.approx(np.mean(np.abs(differences) >= abs(own) - 1e-12))
    assert found.dealings == 35


def test_within_strata_trainings_are_dealt_among_their_own():
    found = compare_groups("fast", trainings("f", FAST, "01010"), "slow", trainings("s", SLOW, "0101"))
    assert found.dealings == math.comb(5, 3) * math.comb(4, 2) == 60
    assert found.permutation_p == found.permutation_p_one_sided == pytest.approx(1 / 60)
    # what the strata differ in is no difference of the groups
    shifted = [Training(each.name, each.growth * (3 if each.stratum == "1" else 1), each.stratum)
               for each in (*trainings("f", FAST, "01010"), *trainings("s", SLOW, "0101"))]  # fmt: skip
    again = compare_groups("fast", shifted[:5], "slow", shifted[5:])
    assert again.permutation_p_one_sided == pytest.approx(1 / 60)
    assert again.p_value > 0.3 > 0.001 > found.p_value


def test_under_no_difference_five_percent_are_claimed_and_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    claimed, covered, n = 0, 0, 400
    for _ in range(n):
        a, b = (tuple(np.exp(rng.normal(0.1, 0.05, size))) for size in (5, 4))
        found = compare_groups("a", trainings("a", a), "b", trainings("b", b))
        claimed += found.permutation_p <= 0.05
        covered += found.lower <= 1 <= found.upper
    assert claimed / n <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / n)
    assert 0.92 <= covered / n <= 0.985


def test_one_training_on_a_side_has_a_ratio_and_no_interval():
    found = compare_groups("a", trainings("a", (1.2,)), "b", trainings("b", (1.0, 1.1)))
    assert found.ratio == pytest.approx(1.2 / math.sqrt(1.1))
    assert (found.lower, found.upper, found.p_value, found.power) == (None,) * 4
    assert found.permutation_p_one_sided == pytest.approx(1 / 3)


def test_too_many_dealings_are_not_counted_and_a_training_is_in_one_group():
    rng = np.random.default_rng(1)
    many = [tuple(np.exp(rng.normal(0, 0.1, 14))) for _ in range(2)]
    found = compare_groups("a", trainings("a", many[0]), "b", trainings("b", many[1]))
    assert found.dealings == count_dealings([""] * 28, 14) == math.comb(28, 14)
    assert (found.permutation_p, found.permutation_p_one_sided) == (None, None)
    assert found.lower < found.ratio < found.upper
    with pytest.raises(UsageError, match="a0 is in both a and b"):
        compare_groups("a", trainings("a", (1.0,)), "b", trainings("a", (1.0,)))
