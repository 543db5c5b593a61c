"""A sweep over one parameter of a schedule, tested for a trend."""

from __future__ import annotations

import math

import polars as pl
import pytest

from pipeline.analysis.forks.fork_reduce import compare_arms
from pipeline.analysis.forks.fork_table import fork_table
from pipeline.analysis.forks.fork_words import sentences
from tests.analysis.forks.test_fork_reduce import shard


def test_a_sweep_is_tested_for_a_trend_over_runs():
    shards = [
        shard(
            f"oli-amplitude{value:g}",
            seed,
            [0.1 + value / 50 + seed / 1000] * 5,
            parameters={"amplitude": value},
        )
        for value in (0.1, 0.3, 1.0, 3.0)
        for seed in range(2)
    ]
    (sweep,) = compare_arms(fork_table(shards)).sweeps
    assert sweep.parameter == "amplitude"
    assert sweep.spearman_r > 0.9
    assert sweep.n_runs == 8
    assert sweep.held == {}


def test_a_sweep_holds_all_other_parameters():
    amplitudes, own = (0.1, 0.3, 1.0, 3.0), {"final": 0.1, "period": 20.0}
    unscaled = [{**own, "amplitude": value} for value in amplitudes]
    scaled = [{**each, "mean_factor": 0.55} for each in unscaled]
    elsewhere = [{**own, "amplitude": 1.0, "mean_factor": factor} for factor in (0.3, 1.0)]
    shards = []
    for number, parameters in enumerate([*unscaled, *scaled, *elsewhere, unscaled[0]]):
        # without mean_factor the gap falls with the amplitude, with it it rises; it falls with mean_factor
        slope = 0.01 if "mean_factor" in parameters else -0.01
        gap = 0.2 + slope * parameters["amplitude"] - 0.05 * parameters.get("mean_factor", 0.0)
        shards += [
            shard(f"oli-{number}", seed, [gap + seed / 1e4] * 5, parameters=parameters) for seed in range(3)
        ]
    report = compare_arms(fork_table(shards))
    own_rate, held_rate, level = report.sweeps
    assert [sweep.parameter for sweep in report.sweeps] == ["amplitude", "amplitude", "mean_factor"]
    assert [sweep.held for sweep in report.sweeps] == [{}, {"mean_factor": 0.55}, {"amplitude": 1.0}]
    assert own_rate.values == held_rate.values == amplitudes
    assert level.values == (0.3, 0.55, 1.0)
    assert (own_rate.n_runs, held_rate.n_runs, level.n_runs) == (12, 12, 9)  # no arm twice
    assert own_rate.spearman_r < -0.9 < 0.9 < held_rate.spearman_r
    text = " ".join(sentences(report))
    assert "Over amplitude of oli (0.1, 0.3, 1, 3; 12 runs) the gap falls" in text
    assert "Over amplitude of oli with mean_factor 0.55 (0.1, 0.3, 1, 3; 12 runs) the gap rises" in text
    assert "Over mean_factor of oli with amplitude 1 (0.3, 0.55, 1; 9 runs) the gap falls" in text


@pytest.mark.parametrize("ends", [[0.1] * 3, [math.nan] * 3])
def test_two_values_or_runs_that_all_diverged_are_no_sweep(ends):
    values = (0.3, 1.0, 3.0) if math.isnan(ends[0]) else (0.3, 1.0)
    shards = [
        shard(
            f"oli-{value}",
            0,
            [0.1, 0.1, *ends],
            diverged=math.isnan(ends[0]),
            parameters={"amplitude": value},
        )
        for value in values
    ]
    assert compare_arms(fork_table(shards)).sweeps == ()


def test_a_sweep_goes_on_without_an_arm_that_diverged_before_a_probe_is_compared():
    arms = {value: f"oli-amplitude{value:g}" for value in (0.1, 0.3, 1, 3)}
    shards = [shard("cosine", seed, [0.1 + 0.001 * seed] * 5) for seed in range(3)]
    for value, arm in arms.items():
        gaps = [0.1 - 0.01 * value] * 5
        shards += [shard(arm, seed, gaps, parameters={"amplitude": value}) for seed in range(3)]
    table = fork_table(shards).filter((pl.col("arm") != arms[3]) | (pl.col("step") == 0))
    (sweep,) = compare_arms(table).sweeps
    assert (sweep.values, sweep.n_runs) == ((0.1, 0.3, 1), 9)
