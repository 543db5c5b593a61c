"""What a method repairs: the ratio of two gaps, its interval, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.optimize import brentq
from scipy.stats import ttest_1samp

from pipeline.analysis.statistics.intervals import gap_ratios
from pipeline.analysis.trajectory.method_repair import with_repairs

RTN, GPTQ = "int4-g128-asym", "int4-g128-asym@hqq"


def test_the_interval_holds_the_ratios_that_a_t_test_does_not_refuse() -> None:
    rng = np.random.default_rng(0)
    fp32 = rng.normal(3, 0.2, (1, 6))
    rtn = fp32 + 1e-6 * (3 + 0.4 * rng.normal(size=(1, 6)))  # so small that the gap is the difference
    method = fp32 + 1e-6 * (1.5 + 0.3 * rng.normal(size=(1, 6)))
    estimate, lower, upper = (found.item() for found in gap_ratios(fp32, method, rtn))
    assert estimate == pytest.approx((method - fp32).mean() / (rtn - fp32).mean(), rel=1e-5)

    def excess(ratio: float) -> float:
        difference = (method - fp32) - ratio * (rtn - fp32)
        return float(ttest_1samp(difference[0], 0).pvalue - 0.05)

    assert lower == pytest.approx(brentq(excess, 0.0, estimate), rel=1e-4)
    assert upper == pytest.approx(brentq(excess, estimate, 2.0), rel=1e-4)


@pytest.mark.parametrize("n_batches", [5, 32])
def test_the_interval_covers_the_true_ratio(n_batches: int) -> None:
    rng, n = np.random.default_rng(1), 4000
    text = rng.normal(0, 0.3, (n, n_batches))
    hard = rng.normal(0, 0.5, (n, n_batches))
    fp32 = 3 + text
    rtn = fp32 + math.log1p(0.4) + 0.1 * hard + rng.normal(0, 0.05, (n, n_batches))
    method = fp32 + math.log1p(0.1) + 0.03 * hard + rng.normal(0, 0.02, (n, n_batches))
    _, lower, upper = gap_ratios(fp32, method, rtn)
    covered = ((lower <= 0.25) & (upper >= 0.25)).mean()
    assert 0.935 < covered < 0.965


def test_there_is_no_ratio_to_a_gap_that_cannot_be_told_from_0_or_is_not_a_number() -> None:
    rng = np.random.default_rng(2)
    fp32 = rng.normal(3, 0.2, (3, 8))
    noise = rng.normal(0, 0.01, (3, 8))
    rtn = fp32 + np.array([[0.2], [0.0], [math.nan]]) + noise
    for found in gap_ratios(fp32, fp32 + 0.1 + noise, rtn):
        assert np.isfinite(found).tolist() == [True, False, False]
    assert np.isnan(gap_ratios(fp32[:, :1], rtn[:, :1], rtn[:, :1])).all()


def table(names: dict[str, list[float]]) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    steps = [0, 100, 200]
    batches = {"fp32": 3 + rng.normal(0, 0.2, (3, 8))}
    for column, gaps in names.items():
        noise = rng.normal(0, 1e-3, (3, 8))
        batches[column] = batches["fp32"] + np.log1p(gaps)[:, None] + noise
    return pl.DataFrame(
        {"step": steps, **{f"{column}_batch_nll_nats": values.tolist() for column, values in batches.items()}}
    )


def test_a_method_is_held_against_its_own_grid() -> None:
    given = table(
        {
            "int4": [0.0, 0.2, 0.4],
            "int4_g128_asym_hqq": [0.0, 0.18, 0.1],
            "int3_g64_asym_hqq": [0.0, 0.1, 0.1],
        }
    )
    found, (repair,) = with_repairs(given, ["fp32", RTN, GPTQ, "int3-g64-asym@hqq"])
    ratio = found["int4_g128_asym_hqq_gap_over_rtn"].to_list()
    assert ratio[0] is None
    assert ratio[1:] == pytest.approx([0.9, 0.25], abs=0.02)
    assert found["int4_g128_asym_hqq_gap_over_rtn_upper"][2] > ratio[2]
    assert (repair.variant, repair.method, repair.rounded, repair.n_known) == (GPTQ, "hqq", RTN, 2)
    assert repair.last is not None
    assert repair.last.step == 200
    assert "25 %" in repair.sentence.replace("%", " %")
    assert found.columns == [*given.columns, *(c for c in found.columns if "gap_over_rtn" in c)]


def test_without_methods_nothing_is_added() -> None:
    given = table({"int4": [0.0, 0.2, 0.4], "plugin": [0.0, 0.2, 0.4]})
    found, repairs = with_repairs(given, ["fp32", RTN, "plugin"])
    assert found.equals(given)
    assert repairs == ()
