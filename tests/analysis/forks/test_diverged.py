"""Runs that diverged count as losses, and leave the other arms theirs."""

from __future__ import annotations

import math

import polars as pl
import pytest

from pipeline.analysis.forks.fork_reduce import compare_arms
from pipeline.analysis.forks.fork_table import fork_table
from pipeline.analysis.forks.fork_words import sentences
from tests.analysis.forks.test_fork_reduce import experiment, shard


def test_a_diverged_run_is_named_and_counted_as_a_loss():
    broken = shard("sgdr", 1, [0.05, 0.2, 0.08, math.nan, math.nan], diverged=True)
    shards = [shard("cosine", seed, [0.1 + seed / 100] * 5) for seed in (0, 1)] + [
        shard("sgdr", 0, [0.05] * 5),
        broken,
    ]
    report = compare_arms(fork_table(shards))
    row = next(each for each in report.comparisons if each.weights == "live")
    assert report.diverged == ("sgdr-seed1",)
    assert (row.tests.wins, row.tests.pairs) == (2, 4)
    assert row.over_run.gap_points.estimate == pytest.approx(5 - 10.5)
    assert "1 run diverged (sgdr-seed1)" in " ".join(sentences(report))


@pytest.mark.parametrize("last", [0, 10])
@pytest.mark.parametrize("arm", ["sgdr", "cosine"])
def test_an_arm_whose_runs_all_diverge_before_a_probe_is_compared_leaves_the_others_theirs(
    arm: str, last: int
):
    """At the start, or within the ramp for cold moments, which the first probe may still belong to."""
    kept = experiment().filter((pl.col("arm") != arm) | (pl.col("step") <= last))
    report = compare_arms(
        kept.with_columns(status=pl.when(pl.col("arm") == arm).then(pl.lit("diverged")).otherwise("status"))
    )
    live = {row.arm: row for row in report.comparisons if row.weights == "live"}
    if arm == "cosine":
        assert all(math.isnan(row.over_run.gap_points.estimate) for row in live.values())
    else:
        assert math.isnan(live["sgdr"].over_run.gap_points.estimate)
        assert live["sgdr"].at_end.step is None
        assert live["oli"].over_run.gap_points.estimate == pytest.approx(-3.0)
    assert any("no run without divergence" in sentence for sentence in sentences(report))
