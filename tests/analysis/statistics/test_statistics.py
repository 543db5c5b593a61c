"""Kurtosis test and resampling, against scipy and against simulated truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.statistics.bootstrap import (
    batch_weights,
    block_indices,
    paired_gap_se,
    paired_replicates,
)
from pipeline.analysis.statistics.noise import ar1_noise
from pipeline.analysis.trajectory.kurtosis import kurtosis_test
from pipeline.base.typed_json import to_json


def test_coefficients_and_naive_p_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(40)
    y = 0.4 * x + rng.standard_normal(40)
    result = kurtosis_test(x, y, np.arange(len(x)))
    pearson, spearman = stats.pearsonr(x, y), stats.spearmanr(x, y)
    assert (result.pearson_r, result.pearson_p_naive) == pytest.approx(tuple(pearson))
    assert (result.spearman_r, result.spearman_p_naive) == pytest.approx(tuple(spearman))
    assert result.n == 40
    assert result.pearson_ci is not None
    assert result.pearson_ci[0] < pearson[0] < result.pearson_ci[1]


def test_unrelated_series_with_memory_are_rarely_called_related() -> None:
    rng = np.random.default_rng(1)
    x, y = ar1_noise(rng, 60, 200, 0.9), ar1_noise(rng, 60, 200, 0.9)
    results = [kurtosis_test(x[:, i], y[:, i], np.arange(60), seed=i) for i in range(200)]
    naive = np.mean([r.pearson_p_naive is not None and r.pearson_p_naive < 0.05 for r in results])
    honest = np.mean([r.pearson_p is not None and r.pearson_p < 0.05 for r in results])
    covered = np.mean([r.pearson_ci is not None and r.pearson_ci[0] <= 0 <= r.pearson_ci[1] for r in results])
    assert naive > 0.3
    assert honest < 0.12
    assert covered > 0.88


@pytest.mark.parametrize("n", [20, 65])
def test_unrelated_trends_with_noise_are_rarely_called_related(n: int) -> None:
    rng = np.random.default_rng(5)
    step = np.arange(n)
    results = [
        kurtosis_test(*(step / n + 0.3 * rng.standard_normal((2, n))), step, seed=i) for i in range(100)
    ]
    with_trend = np.mean([r.pearson_p is not None and r.pearson_p < 0.05 for r in results])
    without = np.mean([r.detrended_pearson_p is not None and r.detrended_pearson_p < 0.05 for r in results])
    assert with_trend > 0.2
    assert without < 0.12
    assert np.mean([r.related for r in results]) < 0.12


def test_a_relation_beside_the_trends_is_found_with_its_sign() -> None:
    rng = np.random.default_rng(6)
    step = np.arange(100, 165)
    own = rng.standard_normal(65)
    for sign in (1, -1):
        x = 0.1 * step + own
        y = sign * (0.1 * step + own + 0.4 * rng.standard_normal(65))
        result = kurtosis_test(x, y, step)
        assert result.related
        assert result.detrended_pearson_r is not None
        assert sign * result.detrended_pearson_r > 0.8
    opposed = kurtosis_test(0.1 * step + own, 0.1 * step - own, step)  # trends agree, the rest does not
    assert opposed.detrended_pearson_r == pytest.approx(-1)
    assert opposed.related is False


def test_the_partial_correlation_is_that_of_the_inverse_covariance() -> None:
    rng = np.random.default_rng(7)
    step = np.sort(rng.choice(1000, 40, replace=False))
    x, y = 0.002 * step + rng.standard_normal((2, 40))
    precision = np.linalg.inv(np.cov(np.stack([x, y, step.astype(float)])))
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert kurtosis_test(x, y, step).detrended_pearson_r == pytest.approx(expected)


def test_an_effective_n_below_its_floor_is_told() -> None:
    step = np.arange(30)
    result = kurtosis_test(step**2.0, step**3.0, step)
    assert result.n_effective == 3
    assert result.n_effective_unclipped is not None
    assert result.n_effective_unclipped < 3
    assert result.related is False
    straight = kurtosis_test(step + 0.0, 2.0 * step, step)  # nothing is left beside the trends
    assert straight.detrended_pearson_r == 0
    assert straight.related is False


@pytest.mark.parametrize(
    ("kurtosis", "words"),
    [(None, "no kurtosis"), (np.arange(4.0), "at least 5"), (np.ones(20), "does not vary")],
)
def test_no_answer_has_a_reason_and_no_number(kurtosis: np.ndarray | None, words: str) -> None:
    gap = np.linspace(0, 1, 20 if kurtosis is None else len(kurtosis))
    out = to_json(kurtosis_test(kurtosis, gap, np.arange(len(gap))))
    assert words in str(out["reason"])
    assert out["pearson_r"] is None
    json.dumps(out, allow_nan=False)


def test_not_finite_pairs_are_left_out() -> None:
    x, y = np.arange(30.0), np.arange(30.0) ** 2
    y[3], x[7] = np.nan, np.inf
    assert kurtosis_test(x, y, np.arange(len(x))).n == 28


def test_blocks_are_runs_of_neighbours_and_all_items_are_equally_likely() -> None:
    index = block_indices(np.random.default_rng(2), 12, 3, 4000)
    assert index.shape == (4000, 12)
    assert np.all((np.diff(index.reshape(4000, 4, 3), axis=2) - 1) % 12 == 0)
    assert np.bincount(index.ravel()) / 4000 == pytest.approx(1.0, abs=0.1)


def test_batch_weights_are_shares_and_pairing_removes_what_batches_have_in_common() -> None:
    rng = np.random.default_rng(3)
    weights = batch_weights(rng, 32, 500)
    assert weights.sum(axis=0) == pytest.approx(1.0)
    fp32 = 2 + rng.standard_normal((5, 32))
    nll, gap = paired_replicates(fp32, fp32 + 0.1, weights)
    assert nll.std() > 0.1
    assert gap == pytest.approx(np.expm1(0.1))


@pytest.mark.parametrize("n_batches", [2, 3, 4, 32])
def test_resampled_text_spreads_however_few_batches_there_are(n_batches: int) -> None:
    """Circular blocks of l of n independent batches: the variance of the mean is (1 - l / n) / n."""
    weights = batch_weights(np.random.default_rng(3), n_batches, 500)
    texts = np.random.default_rng(5).standard_normal((4000, n_batches))
    length = 1 if n_batches < 4 else 2
    expected = (1 - length / n_batches) / n_batches
    assert np.mean((texts @ weights).var(axis=1)) == pytest.approx(expected, rel=0.1)


def test_paired_standard_error_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(4)
    fp32 = 2 + rng.standard_normal((4000, 16))
    quantized = fp32 + 0.3 + 0.05 * rng.standard_normal((4000, 16))
    spread = np.expm1((quantized - fp32).mean(axis=1)).std()
    assert np.median(paired_gap_se(fp32, quantized)) == pytest.approx(spread, rel=0.05)
    assert np.isnan(paired_gap_se(fp32[:2, :1], quantized[:2, :1])).all()
