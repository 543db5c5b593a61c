"""Reading tables: what is accepted, what is refused, and with which words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.statistics.curve_tables import curve_from_frame
from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.trajectory.phase_detection import detect_phases
from pipeline.base.errors import UsageError

GOOD = {"step": [0, 10, 20], "fp32_nll_nats": [3.0, 2.0, 2.0], "int4_nll_nats": [3.0, 2.0 + np.log(1.5), 2.1]}


def test_gap_is_the_relative_perplexity_increase() -> None:
    gap = curve_from_frame(pl.DataFrame(GOOD)).gap("int4")
    assert gap == pytest.approx([0.0, 0.5, np.exp(0.1) - 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": [0, 20, 10]}, "step 10 follows step 20"),
        ({"step": [0, 10, 10]}, "step 10 follows step 10"),
        ({"step": [0.0, 0.5, 1.0]}, "whole numbers"),
        ({"step": [0, None, 20]}, "whole numbers"),
        ({"int4_nll_nats": ["a", "b", "c"]}, "int4_nll_nats is not numeric"),
        ({"int4_nll_nats": [True, False, True]}, "not a number"),
    ],
)
def test_bad_values_are_named(change: dict[str, list[object]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        curve_from_frame(pl.DataFrame(GOOD | change, strict=False))


@pytest.mark.parametrize("missing", ["step", "fp32_nll_nats", "int4_nll_nats"])
def test_missing_columns_are_named(missing: str) -> None:
    with pytest.raises(UsageError, match=missing.removeprefix("int4")):
        curve_from_frame(pl.DataFrame(GOOD).drop(missing))


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="2 checkpoints given"):
        curve_from_frame(pl.DataFrame(GOOD).head(2))


def test_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean int4"):
        curve_from_frame(pl.DataFrame(GOOD)).gap("int5")


def test_an_empty_cell_and_every_spelling_of_nan_mean_not_a_number_never_zero() -> None:
    text = "step,fp32_nll_nats,int4_nll_nats\n0,3,3\n1,2,nan\n2,,NaN\n3,2,\n4,NA,2\n"
    curve = curve_from_frame(pl.read_csv(text.encode()))
    assert np.isnan(curve.gap("int4")).tolist() == [False, True, True, True, True]


NAN = float("nan")


@pytest.mark.parametrize(
    "cells",
    [
        [None, "step0", None], ["", "step0", ""], ["nan", "step0", "NaN"], [NAN, 0.0, NAN], [None, 0, None],
        [False, True, False], [0, 1, 0],
    ],
    ids=str,
)  # fmt: skip
def test_every_spelling_of_no_earlier_row_leaves_a_row_in(cells: list[object]) -> None:
    curve = curve_from_frame(pl.DataFrame(GOOD | {"duplicate_of": cells}, strict=False))
    assert curve.first_of_its_content.tolist() == [True, False, True]


def test_other_columns_are_ignored_and_variants_found() -> None:
    frame = pl.DataFrame(GOOD).with_columns(
        pl.lit("x").alias("note"), (pl.col("step") * 0.1).alias("learning_rate")
    )
    curve = curve_from_frame(frame)
    assert curve.variants == ("int4",)
    assert curve.learning_rate == pytest.approx([0.0, 1.0, 2.0])
    assert curve.kurtosis is None


def test_batches_must_pair_with_those_of_fp32() -> None:
    step, y = np.arange(3), np.zeros(3)
    with pytest.raises(UsageError, match="shape"):
        Curve(
            step,
            y,
            {"int4": y},
            fp32_batch_nll_nats=np.zeros((3, 4)),
            variant_batch_nll_nats={"int4": np.zeros((3, 5))},
        )


def test_a_negative_learning_rate_is_refused_and_one_that_is_not_known_is_not() -> None:
    curve = curve_from_frame(pl.DataFrame(GOOD | {"learning_rate": [None, 0.0, 1e-3]}, strict=False))
    assert curve.learning_rate is not None
    with pytest.raises(UsageError, match=r"learning_rate holds -0.001 at step 20"):
        curve_from_frame(pl.DataFrame(GOOD | {"learning_rate": [0.0, 1e-3, -1e-3]}))


def test_lists_are_a_curve_too() -> None:
    step = list(range(0, 120, 10))
    lists = Curve(step, [2.0] * 12, {"int4": [2.1] * 12}, duplicate=[False] * 12)  # type: ignore[arg-type, list-item]
    arrays = Curve(
        np.array(step), np.full(12, 2.0), {"int4": np.full(12, 2.1)}, duplicate=np.zeros(12, dtype=bool)
    )
    assert detect_phases(lists, n_null=1) == detect_phases(arrays, n_null=1)
    with pytest.raises(UsageError, match="whole numbers"):
        replace(lists, step=arrays.step + 0.5)
    with pytest.raises(UsageError, match="whole numbers"):
        replace(lists, step=[*step[:-1], np.inf])
