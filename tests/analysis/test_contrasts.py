"""The run-level analysis on simulated runs whose effect and within-run correlation are known, and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.contrasts import (
    contrast,
    distinct_runs,
    hedges_g,
    holm,
    paired_estimate,
    welch_estimate,
    wins,
    with_text,
)

PROBES = 12
BETWEEN = 0.8
"""Share of a probe's variance that belongs to its run."""


def simulated(rng, runs: int, shift: float = 0.0) -> np.ndarray:
    """(runs, PROBES) with unit variance and correlation BETWEEN within a run."""
    own = rng.normal(size=(runs, 1)) * math.sqrt(BETWEEN)
    return shift + own + rng.normal(size=(runs, PROBES)) * math.sqrt(1 - BETWEEN)


@pytest.mark.parametrize("runs", [3, 9])
def test_without_an_effect_the_run_level_test_holds_five_percent_and_the_naive_one_does_not(runs):
    rng = np.random.default_rng(runs)
    found = [contrast(simulated(rng, runs), simulated(rng, runs), seed=seed) for seed in range(600)]
    honest = np.mean([each.difference.p_value < 0.05 for each in found])
    naive = np.mean([each.naive.p_value < 0.05 for each in found])
    assert honest <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)
    assert naive > 0.4


def test_the_interval_covers_the_true_effect_at_least_nineteen_times_in_twenty():
    rng = np.random.default_rng(5)
    found = [
        contrast(simulated(rng, 5, shift=-1.0), simulated(rng, 5), seed=seed).difference
        for seed in range(500)
    ]
    covered = np.mean([each.lower <= -1.0 <= each.upper for each in found])
    assert covered >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / 500)


def test_a_large_effect_is_found_with_the_right_size():
    rng = np.random.default_rng(1)
    found = contrast(simulated(rng, 9, shift=-3.0), simulated(rng, 9))
    assert found.difference.p_value < 0.001
    assert found.difference.lower < -3.0 < found.difference.upper < 0
    assert found.wins == found.pairs == 81 or found.wins > 70


def test_each_test_is_the_one_that_scipy_computes():
    rng = np.random.default_rng(2)
    treated, baseline = simulated(rng, 4, 0.7), simulated(rng, 5)
    a, b = treated.mean(axis=1), baseline.mean(axis=1)
    found = contrast(treated, baseline)
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.welch_p == pytest.approx(welch.pvalue)
    assert found.difference.p_value == max(found.welch_p, found.bootstrap_p)
    low, high = welch.confidence_interval(0.95)
    assert found.difference.lower <= low
    assert found.difference.upper >= high
    ranks = stats.mannwhitneyu(a, b, alternative="two-sided", method="exact")
    assert found.wilcoxon_p == pytest.approx(ranks.pvalue)
    assert found.wins == len(a) * len(b) - ranks.statistic  # U counts the pairs that the treated does not win
    naive = stats.ttest_rel(treated.ravel(), baseline[:4].ravel())
    assert (found.naive.t, found.naive.p_value) == pytest.approx((naive.statistic, naive.pvalue))
    pooled = math.sqrt((3 * a.var(ddof=1) + 4 * b.var(ddof=1)) / 7)
    exact = math.gamma(3.5) / (
        math.sqrt(3.5) * math.gamma(3.0)
    )  # Hedges' own correction for 7 degrees of freedom
    assert hedges_g(a, b) == pytest.approx((a.mean() - b.mean()) / pooled * exact, rel=2e-3)


def test_three_runs_against_three_cannot_reach_five_percent_by_ranks():
    separate = contrast(np.array([[1.0], [2.0], [3.0]]), np.array([[11.0], [12.0], [13.0]]))
    assert (separate.wins, separate.pairs) == (9, 9)
    assert separate.wilcoxon_p == pytest.approx(separate.wilcoxon_p_floor) == pytest.approx(0.1)


def test_a_diverged_run_loses_every_pair_and_is_in_no_mean():
    treated = np.array([[1.0, 1.0], [2.0, math.nan], [3.0, 3.0]])
    baseline = np.array([[4.0, 4.0], [5.0, 5.0], [math.nan, math.nan]])
    assert wins(treated, baseline) == 6  # two runs win all three pairs, also that against the diverged one
    assert contrast(treated, baseline).difference.estimate == pytest.approx(2.0 - 4.5)


def test_a_run_that_repeats_another_is_not_one_more():
    rng = np.random.default_rng(4)
    treated, baseline = simulated(rng, 3, 0.5), simulated(rng, 4)
    once = contrast(treated, baseline)
    again = contrast(np.concatenate([treated, treated[1:]]), baseline)
    assert (again.n_distinct_runs, again.n_distinct_baseline_runs, again.pairs) == (3, 4, 12)
    assert (again.difference, again.wins, again.wilcoxon_p) == (once.difference, once.wins, once.wilcoxon_p)
    diverged = np.array([[1.0, math.nan], [1.0, math.nan], [2.0, 3.0], [2.0, 3.0]])
    assert len(distinct_runs(diverged)) == 3


def test_an_arm_of_one_repeated_run_is_a_constant_against_the_scatter_of_the_other():
    still, baseline = np.full((5, PROBES), 2.0), simulated(np.random.default_rng(6), 5)
    found = contrast(still, baseline)
    test = stats.ttest_1samp(baseline.mean(axis=1), 2.0)
    assert found.welch_p == pytest.approx(test.pvalue)
    assert (found.wins, found.pairs) == (0, 5)
    assert found.wilcoxon_p >= found.wilcoxon_p_floor == pytest.approx(2 / 6)
    assert found.effect_size is None
    assert found.detectable is None


def test_text_widens_an_interval_in_squares_and_leaves_it_where_it_was():
    rng = np.random.default_rng(8)
    by_run = welch_estimate(rng.normal(1, 1, 4), rng.normal(0, 1, 4))
    half = stats.t.ppf(0.975, 15) * 0.3
    found = with_text(by_run, 0.3, 15)
    assert (found.lower, found.upper, found.p_value) == (by_run.lower, by_run.upper, by_run.p_value)
    assert found.upper_with_text - found.estimate == pytest.approx(
        math.hypot(by_run.upper - by_run.estimate, half)
    )
    assert found.estimate - found.lower_with_text == pytest.approx(found.upper_with_text - found.estimate)
    assert with_text(by_run, None, 0).upper_with_text is None


def test_one_run_per_arm_claims_nothing():
    found = contrast(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]))
    assert found.difference.estimate == -2.0
    assert (found.difference.p_value, found.difference.lower, found.effect_size, found.detectable) == (
        None,
    ) * 4


def test_runs_that_do_not_differ_at_all_differ_by_zero():
    same = np.ones((3, 4))
    found = contrast(same, same)
    assert (found.difference.estimate, found.difference.p_value, found.wins) == (0.0, 1.0, 0)
    assert found.naive.t is None


def test_paired_differences_are_tested_by_students_t():
    differences = np.array([0.2, -0.1, 0.4, math.nan])
    found = paired_estimate(differences)
    test = stats.ttest_1samp(differences[:3], 0.0)
    assert (found.estimate, found.p_value) == pytest.approx((differences[:3].mean(), test.pvalue))
    assert (found.lower, found.upper) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_holm_multiplies_by_the_hypotheses_left_and_never_falls():
    adjusted = holm([0.04, 0.001, 0.02])
    assert adjusted == pytest.approx([0.04, 0.003, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
