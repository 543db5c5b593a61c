"""The page on other people's runs says what its table holds; its numbers by another way of computing them."""

from __future__ import annotations

import csv
import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest

from tests.external.pairs import FOLDER, TABLE, read_pairs
from tests.external.questions import findings
from tests.external.words import page
from tests.test_reference import assert_close

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads((FOLDER / "findings.json").read_text())


def test_the_command_makes_what_is_committed(kept):
    assert_close(findings(read_pairs()), kept, "findings.json")
    assert page(kept) == (FOLDER / "README.md").read_text()


def test_the_scatter_between_seeds_is_that_of_the_paired_rows_alone(kept):
    gaps, after = defaultdict(list), defaultdict(list)
    for row in csv.DictReader((FOLDER / TABLE).read_text().splitlines()):
        if row["kind"].startswith("paired"):
            recipe = row["path"].split("/")[2]
            gaps[recipe].append(float(row["gap_nats"]))
            after[recipe].append(float(row["nll_after_nats"]))
    assert (len(gaps), sum(map(len, gaps.values()))) == (24, 76)
    many = {name: values for name, values in gaps.items() if len(values) > 2}
    scatter = sorted(statistics.stdev(values) for values in many.values())
    told = kept["seed_scatter"]
    assert told["median_gap_sd_nats"]["estimate"] == pytest.approx(statistics.median(scatter))
    # of 23 values, the median lies between the 7th and the 17th with a probability of at least 0.95 (binomial)
    assert told["median_gap_sd_nats"]["lower"] == pytest.approx(scatter[6])
    assert told["median_gap_sd_nats"]["upper"] == pytest.approx(scatter[16])
    ratios = [statistics.stdev(after[name]) / statistics.stdev(values) for name, values in many.items()]
    assert told["median_after_sd_over_gap_sd"]["estimate"] == pytest.approx(statistics.median(ratios))
    assert told["median_after_sd_over_gap_sd"]["lower"] > 1, "a paired difference scatters less than a loss"


def test_rows_that_compare_a_model_with_itself_have_a_positive_gap_and_the_others_need_not():
    table = read_pairs()
    itself = pl.col("kind").str.starts_with("paired")
    assert table.filter(itself)["gap_nats"].min() > 0
    assert table.filter(~itself)["gap_nats"].min() < -0.05


def test_the_long_baseline_lies_outside_what_one_more_short_training_would_give(kept):
    baseline = kept["length"]["baseline"]
    gaps = [0.0143, 0.0130, 0.0126, 0.0123, 0.0121]
    t_975_of_4 = 2.7764
    half = t_975_of_4 * statistics.stdev(gaps) * (1 + 1 / 5) ** 0.5
    assert baseline["short"]["one_more_nats"] == pytest.approx(
        [statistics.mean(gaps) - half, statistics.mean(gaps) + half], rel=1e-4
    )
    assert baseline["long"]["gap_nats"] > 3 * baseline["short"]["one_more_nats"][1]
    assert baseline["long"]["after_nats"] < baseline["short"]["after_nats"]


def test_the_trend_within_equal_text_and_tokens_is_blind_to_what_differs_between_them():
    """Gaps shifted by vocabulary change the trend over all entries and none within."""
    table = read_pairs()
    vocabulary = pl.col("nll_before_nats") < 2.2
    moved = table.with_columns(gap_nats=pl.col("gap_nats") + pl.when(vocabulary).then(1.0).otherwise(0.0))
    one, other = (findings(each)["length"]["between_recipes"] for each in (table, moved))
    assert one["within_equal_text_and_tokens"] == other["within_equal_text_and_tokens"]
    assert one["all_together"] != other["all_together"]
    assert sum(each["recipes"] for each in one["strata"]) == one["recipes"]
    for left, right in itertools.pairwise(one["strata"]):
        assert left["loss_nats"][1] < right["loss_nats"][0]


def test_a_gap_that_is_not_the_difference_of_its_losses_is_refused(tmp_path):
    text = (FOLDER / TABLE).read_text()
    broken = tmp_path / TABLE
    broken.write_text(text.replace("2.0598,2.0741,0.0143", "2.0598,2.0741,0.0153", 1))
    with pytest.raises(ValueError, match="LoRA_TTT"):
        read_pairs(broken)


def test_the_table_is_the_one_that_was_handed_over():
    original = ROOT.parent / "shared" / "data" / "external" / TABLE
    if not original.exists():
        pytest.skip("the original is not on this machine")
    assert original.read_bytes() == (FOLDER / TABLE).read_bytes()
