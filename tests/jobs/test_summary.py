"""The table of a trajectory on a terminal."""

import io

import polars as pl
from rich.console import Console

from jobs.console import rich_table
from pipeline.analysis.terminal import GAPS, trajectory_text


def test_more_variants_than_fit_are_left_to_the_tables_and_int4_is_not_among_these():
    variants = [f"int{bits}_g{group}_asym" for bits in (2, 3, 5, 6) for group in (32, 64, 128)] + [
        "int4",
        "int8",
    ]
    names = {each: each.replace("_", "-") for each in variants}
    columns = {f"{each}_gap": [0.1, 0.2] for each in variants}
    frame = pl.DataFrame(
        {"step": [0, 10], "learning_rate": [0.0, 1e-3], "fp32_perplexity": [9.0, 8.0], **columns}
        | {"kurtosis": [0.0, 0.1], "phase": [1, 1]}
    )
    out = io.StringIO()
    Console(file=out, width=100).print(rich_table(trajectory_text(frame, names)))
    assert f"{GAPS} of 14 variants" in out.getvalue()
    heads = out.getvalue().splitlines()[2:4]
    assert "INT4 gap" in heads[0] + heads[1]
    assert "+20.00%" in out.getvalue()


def test_a_heading_holds_the_label_of_its_variant():
    frame = pl.DataFrame(
        {"step": [0], "learning_rate": [0.0], "fp32_perplexity": [9.0], "int4_g64_asym_gap": [0.1]}
        | {"kurtosis": [0.0], "phase": [None]}
    )
    assert "int4-g64-asym gap" in trajectory_text(frame, {"int4_g64_asym": "int4-g64-asym"}).heads
