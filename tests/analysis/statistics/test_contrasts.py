"""Arms compared seed by seed, on simulated runs whose truth is known, and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.statistics.contrasts import (
    TextError,
    distinct_runs,
    hedges_g,
    holm,
    mean_variance,
    naive_t,
    paired_estimate,
    welch_estimate,
    wins,
)
from tests.analysis.statistics import fork_rates


@pytest.mark.parametrize("correlation", fork_rates.CORRELATIONS)
@pytest.mark.parametrize("seeds", fork_rates.SEEDS)
def test_intervals_cover_the_truth_whatever_the_correlation_of_runs_of_one_seed(seeds, correlation):
    found = fork_rates.measure(seeds, correlation, "unequal", 250, np.random.default_rng(seeds))["ours"]
    assert found.covered >= 0.93
    assert found.worst >= 0.88


def test_pairing_narrows_the_interval_where_seeds_agree_and_pooling_where_they_do_not():
    rng = np.random.default_rng(1)
    agree, apart = (fork_rates.measure(3, each, "equal", 150, rng) for each in (0.9, 0.0))
    assert agree["ours"].half_width < 0.5 * agree["welch"].half_width
    assert apart["ours"].half_width < 0.9 * apart["paired"].half_width


def test_the_scatter_of_the_text_is_covered_too():
    found = fork_rates.measure(3, 0.5, "equal", 250, np.random.default_rng(2), text=1.0)["ours"]
    assert found.covered >= 0.92


@pytest.mark.parametrize("text", [0.3, 0.6])
def test_two_seeds_are_covered_also_where_the_text_is_better_known_than_they(text):
    found = fork_rates.measure(2, 0.0, "equal", 150, np.random.default_rng(3), text=text)
    assert min(found[way].covered for way in ("ours", "paired")) >= 0.93


def test_the_text_makes_no_interval_of_two_seeds_narrower():
    for differences in ([1.0, 1.2], [0.0, 2.0]):
        alone, found = (
            paired_estimate(np.array(differences), text=text) for text in (None, TextError(0.1, 15))
        )
        assert found.lower <= found.lower_by_run == alone.lower
        assert found.p_value >= alone.p_value
    known = paired_estimate(np.array([1.0, 1.0]), text=TextError(0.1, 15))
    assert known.upper - known.estimate == pytest.approx(stats.t.ppf(0.975, 15) * 0.1)


def test_paired_differences_are_tested_by_students_t():
    differences = np.array([0.2, -0.1, 0.4, math.nan])
    found = paired_estimate(differences)
    test = stats.ttest_1samp(differences[:3], 0.0)
    assert (found.estimate, found.p_value) == pytest.approx((differences[:3].mean(), test.pvalue))
    assert (found.lower, found.upper) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert (found.lower_by_run, found.upper_by_run) == (found.lower, found.upper)


def test_an_arm_is_taken_to_scatter_at_least_half_way_to_the_mean_of_all():
    quiet, wild = np.array([1.0, 1.1, 1.2]), np.array([0.0, 2.0, 4.0])
    pooled = mean_variance([quiet, wild, np.array([5.0])])
    assert pooled == pytest.approx((0.01 + 4.0) / 2)
    half = stats.t.ppf(0.975, 3.0)
    found = paired_estimate(quiet, pooled_variance=pooled)
    assert found.upper - found.estimate == pytest.approx(half * math.sqrt((0.01 + pooled) / 2 / 3))
    found = paired_estimate(wild, pooled_variance=pooled)
    assert found.upper - found.estimate == pytest.approx(half * math.sqrt(4.0 / 3))
    assert mean_variance([quiet, np.array([5.0])]) is None


def test_unpaired_runs_are_tested_as_scipy_does():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.7, 1, 4), rng.normal(0, 2, 5)
    found, test = welch_estimate(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert found.p_value == pytest.approx(test.pvalue)
    assert (found.lower, found.upper) == pytest.approx(tuple(test.confidence_interval(0.95)))
    constant = welch_estimate(np.full(5, 2.0), b)
    assert constant.p_value == pytest.approx(stats.ttest_1samp(b, 2.0).pvalue)


def test_text_adds_its_variance_and_its_degrees_of_freedom():
    differences = np.random.default_rng(8).normal(1, 1, 4)
    alone, found = (paired_estimate(differences, text=text) for text in (None, TextError(0.3, 15)))
    runs = differences.var(ddof=1) / 4
    df = (runs + 0.09) ** 2 / (runs**2 / 3 + 0.09**2 / 15)
    half = stats.t.ppf(0.975, df) * math.sqrt(runs + 0.09)
    assert found.upper - found.estimate == pytest.approx(half) == pytest.approx(found.estimate - found.lower)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.estimate) / math.sqrt(runs + 0.09), df))
    assert (found.lower_by_run, found.upper_by_run) == (alone.lower, alone.upper)
    assert (found.runs_se, found.text_se, alone.text_se) == (alone.runs_se, 0.3, None)


def test_what_is_alike_to_the_last_digit_differs_by_zero_or_certainly():
    for values, p_value in ((np.zeros(3), 1.0), (np.full(3, 0.5), 0.0)):
        found = paired_estimate(values)
        assert (found.lower, found.upper, found.p_value) == (values[0], values[0], p_value)
    assert naive_t(np.ones((3, 4)), np.ones((3, 4))).t is None


def test_one_difference_claims_nothing():
    for found in (paired_estimate(np.array([-2.0])), welch_estimate(np.array([1.0]), np.array([3.0, 3.0]))):
        assert found.estimate == -2.0
        assert (found.p_value, found.lower, found.upper) == (None,) * 3
    assert math.isnan(paired_estimate(np.array([math.nan])).estimate)
    assert math.isnan(welch_estimate(np.array([1.0]), np.empty(0)).estimate)


def test_the_naive_test_takes_every_probe_for_independent():
    rng = np.random.default_rng(2)
    treated, baseline = rng.normal(0.2, 1, (4, 12)), rng.normal(0, 1, (5, 12))
    found, test = naive_t(treated, baseline), stats.ttest_rel(treated.ravel(), baseline[:4].ravel())
    assert (found.t, found.n, found.p_value) == pytest.approx((test.statistic, 48, test.pvalue))


def test_the_effect_size_is_that_of_hedges():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.7, 1, 4), rng.normal(0, 1, 5)
    pooled = math.sqrt((3 * a.var(ddof=1) + 4 * b.var(ddof=1)) / 7)
    exact = math.gamma(3.5) / (
        math.sqrt(3.5) * math.gamma(3.0)
    )  # his own correction for 7 degrees of freedom
    assert hedges_g(a, b) == pytest.approx((a.mean() - b.mean()) / pooled * exact, rel=2e-3)
    assert hedges_g(np.ones(3), np.ones(3)) is None


def test_a_diverged_run_loses_every_pair():
    treated = np.array([[1.0, 1.0], [2.0, math.nan], [3.0, 3.0]])
    baseline = np.array([[4.0, 4.0], [5.0, 5.0], [math.nan, math.nan]])
    assert wins(treated, baseline) == 6  # two runs win all three pairs, also that against the diverged one


def test_a_run_that_repeats_another_is_not_one_more():
    diverged = np.array([[1.0, math.nan], [1.0, math.nan], [2.0, 3.0], [2.0, 3.0]])
    assert len(distinct_runs(diverged)) == 3


def test_holm_multiplies_by_the_hypotheses_left_and_by_the_looks_and_never_falls():
    assert holm([0.04, 0.001, 0.02]) == pytest.approx([0.04, 0.003, 0.04])
    assert holm([0.04, 0.001, 0.02], looks=2) == pytest.approx([0.08, 0.006, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_two_looks_at_nothing_claim_something_in_at_most_five_percent():
    """Three seeds, and two more where the first three claimed nothing."""
    rng, n, claimed = np.random.default_rng(4), 2000, 0
    for _ in range(n):
        differences = rng.normal(size=5)
        looks = [holm([paired_estimate(each).p_value], looks=2)[0] for each in (differences[:3], differences)]
        claimed += min(looks) < 0.05
    assert claimed / n <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / n)
