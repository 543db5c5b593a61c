"""The fork's table and its statistics on shards whose truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from scipy import stats

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.forks.fork_reduce import compare_arms
from pipeline.analysis.forks.fork_table import arm_runs, compared_steps, fork_table
from pipeline.analysis.forks.fork_words import sentences
from pipeline.base.typed_json import from_json, to_json
from pipeline.runs.shard import Shard
from pipeline.runs.shard_schema import FORK_SCHEMA

STEPS = (0, 10, 20, 30, 40)
PHASES = {
    "cosine": ("start", "rewarm", "decay", "decay", "decay"),
    "sgdr": ("start", "rewarm", "anneal", "restart", "anneal"),
    "oli": ("start", "rewarm", "settled", "bump", "settled"),
    "unfinished": ("start", "rewarm", "settled", "settled", "bump"),
    "noop": ("start", "noop", "noop", "noop", "noop"),
}

EASE, SHARES = np.tile([-0.1, 0.1], 16), np.tile([0.95, 1.05], 16)
"""By evaluation batch, how much easier or harder it is, and the share of the mean excess that it has."""


def shard(
    arm: str, seed: int, gaps: Sequence[float], *, nll: float = 2.0, diverged: bool = False, **change
) -> Shard:
    """A run with the given live INT4 gaps at STEPS; averaged weights have half of each.

    ``text``: by evaluation batch, the share of the mean excess that it has; else blocks of batches do not differ.
    """
    text = change.get("text", SHARES)
    rows = []
    for step, gap, phase in zip(STEPS, gaps, PHASES[arm.partition("-")[0]], strict=True):
        for weights, factor in (("live", 1.0), ("ema", 0.5), ("lawa", 0.5)):
            for variant, excess in (("fp32", 0.0), ("int4-g128-asym", math.log1p(gap * factor))):
                rows.append(
                    {
                        "suite": "s", "revision": "step5", "run_id": f"{arm}-seed{seed}", "arm": arm,
                        "schedule": change.get("schedule", arm.partition("-")[0]),
                        "parameters": json.dumps(change.get("parameters", {})),
                        "optimizer": "adamw", "seed": seed, "status": "diverged" if diverged else "ok", "step": step,
                        "tokens": step * 128, "learning_rate": 1e-3, "phase_label": phase, "train_loss_nats": 2.0,
                        "weights": weights, "variant": variant, "nll_nats": nll + excess,
                        "perplexity": math.exp(nll + excess), "n_tokens": 8,
                        "batch_nll_nats": [nll + excess * share + own for share, own in zip(text, EASE, strict=True)],
                        "kl_nats_mean": 0.1,
                        "kl_nats_p50": 0.1, "kl_nats_p99": 0.1, "top1_agreement": 0.9, "delta_p_rms": 0.1,
                        "gap": math.expm1(excess), "kurtosis": 0.0, "relative_error": None, "wall_s": 1.0,
                        "probe_s": 1.0, "device": "cpu",
                    }
                )  # fmt: skip
    import pyarrow as pa

    return Shard(f"{arm}-seed{seed}", pa.Table.from_pylist(rows, schema=FORK_SCHEMA), "", {}, {}, (), {})


def experiment() -> pl.DataFrame:
    """Cosine at 10 %; SGDR 2 points above it; OLI 3 points below when settled and far above in its bump."""
    shards = []
    for seed in range(4):
        own = 0.001 * seed
        shards += [
            shard("cosine", seed, [0.05, 0.2, *[0.10 + own] * 3]),
            shard("sgdr", seed, [0.05, 0.2, *[0.12 + own] * 3], nll=2.1),
            shard("oli", seed, [0.05, 0.2, 0.07 + own, 0.5, 0.07 + own]),
        ]
    return fork_table(shards)


def test_the_table_keeps_every_row_and_leaves_out_what_another_machine_would_change():
    table = experiment()
    assert table.height == 12 * 5 * 3 * 2
    assert not {"wall_s", "probe_s", "device"} & set(table.columns)
    row = table.filter((pl.col("step") == 20) & (pl.col("variant") != "fp32")).row(0, named=True)
    excess = math.log1p(row["gap"])
    # batches differ from fp32 by the excess and 5 % more or less; delta method on their mean
    assert row["gap_se"] == pytest.approx(math.exp(excess) * 0.05 * excess / math.sqrt(31))


def test_only_settled_probes_of_lock_in_and_none_of_the_re_warm_up_are_compared():
    table = experiment()
    for arm, steps in (("cosine", [20, 30, 40]), ("sgdr", [20, 30, 40]), ("oli", [20, 40])):
        runs = arm_runs(table, arm, "int4-g128-asym", "live")
        assert [
            step for step, chosen in zip(runs.steps, compared_steps(runs), strict=True) if chosen
        ] == steps


def test_differences_wins_and_prices_are_the_ones_put_in():
    report = compare_arms(experiment())
    found = {(row.arm, row.weights): row for row in report.comparisons}
    assert set(found) == {(arm, weights) for arm in ("sgdr", "oli") for weights in ("live", "ema", "lawa")}
    sgdr, oli = found["sgdr", "live"], found["oli", "live"]
    assert sgdr.over_run.gap_points.estimate == pytest.approx(2.0)
    assert oli.over_run.gap_points.estimate == pytest.approx(-3.0)
    assert (sgdr.tests.wins, oli.tests.wins, oli.tests.pairs) == (0, 16, 16)
    assert sgdr.over_run.fp32_nats.estimate == pytest.approx(0.1)
    # a gap of 12 % against one of 10 %, and 0.1 nats more in full precision
    assert sgdr.over_run.variant_nats.estimate == pytest.approx(0.1 + math.log(1.12 / 1.10), abs=1e-3)
    assert (oli.probes, oli.n_probes, sgdr.n_probes) == ("settled", 2, 3)
    p_values = sorted(row.over_run.gap_points.p_value for row in (sgdr, oli))
    assert sorted(row.p_holm for row in (sgdr, oli)) == pytest.approx(
        [2 * p_values[0], max(2 * p_values[0], p_values[1])]
    )
    assert found["sgdr", "ema"].over_run.gap_points.estimate == pytest.approx(1.0)
    means = {(row.arm, row.weights): row for row in report.averages}
    assert means["cosine", "lawa"].over_run.gap_points.estimate == pytest.approx(-50 * (0.10 + 0.0015))
    wins = {(row.arm, row.other): row.wins for row in report.wins}
    assert (wins["sgdr", "oli"], wins["oli", "sgdr"]) == (0, 16)  # OLI's bump counts for nobody
    text = " ".join(sentences(report))
    assert "sgdr raises the INT4 gap by 2.00 points" in text
    assert "oli lowers the INT4 gap by 3.00 points against cosine in its settled cool phases" in text
    assert "it wins 16 of 16 pairs" in text


def test_the_end_of_a_run_is_told_apart_from_the_whole_of_it():
    shards = []
    for seed in range(3):
        own = 0.001 * seed
        shards += [
            shard("cosine", seed, [0.05, 0.2, 0.10 + own, 0.10 + own, 0.06 + own]),
            shard("sgdr", seed, [0.05, 0.2, 0.13 + own, 0.13 + own, 0.05 + own], nll=2.1),
            shard("unfinished", seed, [0.05, 0.2, 0.10 + own, 0.08 + own, 0.5], schedule="oli"),
        ]
    report = compare_arms(fork_table(shards))
    found = {row.arm: row for row in report.comparisons if row.weights == "live"}
    sgdr, unfinished = found["sgdr"], found["unfinished"]
    assert sgdr.over_run.gap_points.estimate == pytest.approx(5 / 3)
    assert sgdr.at_end.step == 40
    assert sgdr.at_end.gap_points.estimate == pytest.approx(-1.0)
    assert sgdr.at_end.fp32_nats.estimate == pytest.approx(0.1)
    assert sgdr.at_end.variant_nats.estimate == pytest.approx(0.1 + math.log(1.051 / 1.061), abs=1e-5)
    assert unfinished.at_end.step == 30  # what it ends with is a bump, which is not compared
    assert unfinished.at_end.gap_points.estimate == pytest.approx(-2.0)
    means = {(row.arm, row.weights): row for row in report.averages}
    assert means["cosine", "ema"].over_run.gap_points.estimate == pytest.approx(-50 * (0.26 / 3 + 0.001))
    assert means["cosine", "ema"].at_end.gap_points.estimate == pytest.approx(-50 * 0.061)
    text = " ".join(sentences(report))
    assert "At its end (update 40): gap -1.00 points" in text
    assert "At its last settled probe (update 30): gap -2.00 points" in text
    assert "At its end (update 40): gap -3.05 points" in text


def test_the_error_of_the_text_is_that_of_paired_blocks_of_batches():
    rng = np.random.default_rng(11)
    common = rng.normal(0, 0.3, 32)
    shares = {arm: 1 + common + rng.normal(0, 0.1, 32) for arm in ("cosine", "sgdr")}
    shares = {arm: each / each.mean() for arm, each in shares.items()}
    gaps = {"cosine": 0.10, "sgdr": 0.12}
    table = fork_table(
        [
            shard(arm, seed, [gap + seed / 1000] * 5, text=shares[arm])
            for arm, gap in gaps.items()
            for seed in range(3)
        ]
    )
    row = next(each for each in compare_arms(table).comparisons if each.weights == "live")
    moved = {  # delta method: what a batch adds to the gap in points
        arm: sum((1 + own) * math.log1p(own) * 100 * shares[arm] for own in gap + np.arange(3) / 1000) / 3
        for arm, gap in gaps.items()
    }
    blocks = (moved["sgdr"] - moved["cosine"]).reshape(16, 2).mean(axis=1)
    expected = blocks.std(ddof=1) / 4
    for found in (row.over_run.gap_points, row.at_end.gap_points):
        assert found.text_se == pytest.approx(expected, rel=0.02)
        assert found.lower < found.lower_by_run < found.upper_by_run < found.upper
    alone = moved["sgdr"].reshape(16, 2).mean(axis=1).std(ddof=1) / 4
    assert row.over_run.gap_points.text_se < 0.7 * alone  # what is hard for both is in neither
    assert row.over_run.fp32_nats.text_se == pytest.approx(0.0, abs=1e-12)
    assert "the choice of the evaluation text" in sentences(compare_arms(table))[-1]


def test_runs_without_chance_in_them_are_one_run():
    shards = [shard("cosine", seed, [0.1 + seed / 1000] * 5) for seed in range(3)]
    shards += [shard("noop", seed, [0.12] * 5) for seed in range(3)]
    report = compare_arms(fork_table(shards))
    row = next(each for each in report.comparisons if each.weights == "live")
    assert (row.n_runs, row.tests.n_distinct_runs, row.tests.pairs, row.tests.wins) == (3, 1, 3, 0)
    assert row.tests.wilcoxon_p >= row.tests.wilcoxon_p_floor
    assert row.over_run.gap_points.p_value < 0.05
    assert row.tests.detectable_points is None
    assert [each.pairs for each in report.wins] == [3, 3]
    assert "it wins 0 of 3 pairs of runs: 2 of its 3 runs repeat another" in sentences(report)[0]


def test_runs_are_compared_seed_by_seed_and_those_without_a_partner_not():
    own = (0.0, 0.02, 0.05)  # far more than the 0.2 to 0.4 points between arms
    shards = [shard("cosine", seed, [0.10 + own[seed]] * 5) for seed in range(3)]
    shards += [shard("sgdr", seed, [0.102 + own[seed] + seed / 1000] * 5) for seed in range(3)]
    whole = compare_arms(fork_table(shards)).live()[0]
    gap = whole.over_run.gap_points
    test = stats.ttest_1samp([0.2, 0.3, 0.4], 0.0)
    assert (whole.n_pairs, gap.estimate) == (3, pytest.approx(0.3))
    assert (gap.lower_by_run, gap.upper_by_run) == pytest.approx(tuple(test.confidence_interval()), rel=1e-3)
    assert whole.tests.welch.upper - whole.tests.welch.lower > 10 * (gap.upper - gap.lower)
    alone = compare_arms(fork_table([*shards, shard("sgdr", 7, [0.5] * 5)])).live()[0]
    assert (alone.n_runs, alone.n_pairs, alone.over_run.gap_points.estimate) == (4, 3, pytest.approx(0.3))
    others = compare_arms(
        fork_table([*shards[:3], *(shard("sgdr", 5 + k, [0.2 + k / 100] * 5) for k in range(3))])
    )
    unpaired = others.live()[0]
    assert unpaired.n_pairs == 0
    assert unpaired.over_run.gap_points.lower_by_run == pytest.approx(unpaired.tests.welch.lower)


def test_a_second_look_at_the_data_doubles_the_p_value_and_is_told():
    once, twice = (compare_arms(experiment(), looks=looks) for looks in (1, 2))
    for one, two in zip(once.comparisons, twice.comparisons, strict=True):
        assert two.p_holm == pytest.approx(min(1.0, 2 * one.p_holm))
        assert two.over_run == one.over_run
    assert "p values are multiplied by 2" in sentences(twice)[-1]
    assert "multiplied" not in sentences(once)[-1]


def test_a_report_is_the_same_after_it_was_written_and_read():
    origin = {
        "suite": "s", "from_step": 5, "start_rule": "asked for", "failures": {}, "missing": ("sgdr-seed9",),
        "notes": (),
        "corpus": "c", "train_corpus": "c",
        "config": {"rates": {"base_lr": 1e-3, "peak_lr": 4e-3, "steps": 40}, "precision": "fp32"},
        "fingerprint": "f", "wall_s": 1.0,
        "versions": {"torch": "2"},
    }  # fmt: skip
    findings = compare_arms(experiment())
    report = ForkReport(**origin, findings=findings, sentences=sentences(findings))
    written = json.dumps(to_json(report), allow_nan=False)
    assert from_json(ForkReport, json.loads(written)) == report
    broken = json.loads(written)
    del broken["comparisons"][1]["at_end"]["gap_points"]
    with pytest.raises(ValueError, match=r"comparisons\[1\].at_end.gap_points is missing"):
        from_json(ForkReport, broken)
    with pytest.raises(ValueError, match="from_step is 'five', wanted an integer"):
        from_json(ForkReport, {**json.loads(written), "from_step": "five"})


def test_what_is_not_significant_is_not_claimed_and_the_naive_claim_is_told():
    rng = np.random.default_rng(3)
    shards = []
    for arm, offsets in (("cosine", (0.0, 0.02, 0.04)), ("sgdr", (0.03, 0.02, 0.06))):
        for seed, offset in enumerate(offsets):
            gaps = 0.1 + offset + rng.normal(0, 0.001, 5)
            shards.append(shard(arm, seed, gaps))
    report = compare_arms(fork_table(shards))
    row = report.comparisons[0]
    assert row.tests.naive.p_value < 0.02
    assert row.p_holm > 0.1
    (sentence,) = [each for each in sentences(report) if each.startswith("sgdr")]
    assert "does not differ detectably from cosine" in sentence
    assert "would have claimed" in sentence
    assert "The design could have found" in sentence


def test_one_arm_and_fp32_alone_are_said_to_be_nothing_to_compare():
    alone = compare_arms(fork_table([shard("cosine", 0, [0.1] * 5)]))
    assert sentences(alone)[0] == "There is one arm, cosine: nothing to compare it with."
    table = fork_table([shard("cosine", 0, [0.1] * 5)]).filter(pl.col("variant") == "fp32")
    assert sentences(compare_arms(table)) == ("Only fp32 was measured: there is no gap to compare.",)
