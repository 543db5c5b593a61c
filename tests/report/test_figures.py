"""The static figures and the page's size: drawn without a browser, from tables of any shape."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import polars as pl
import pytest

from pipeline.base.errors import UsageError
from pipeline.report import build_figures, build_report
from pipeline.report.frame import make_frame
from pipeline.report.heatmap import MAX_CELLS, make_heatmap
from pipeline.spec import ALIASES
from tests.report import synthetic

LAST = 143_000
MANY = [0, *(2**power for power in range(10)), *range(1000, LAST + 1, 1000)]


def colours(png: bytes) -> int:
    """How many different bytes sequences of 4 the first rows' raw data has: 1 for a blank figure."""
    at, data = 8, b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return len(set(zlib.decompress(data)))


def test_figures_of_a_whole_run(capfd: pytest.CaptureFixture[str]) -> None:
    trajectory = synthetic.trajectory()
    figures = build_figures(trajectory, synthetic.tensors(trajectory["step"].to_list()), synthetic.report())
    assert list(figures) == [
        f"{name}.png" for name in ("trajectory", "perplexity", "gap", "learning_rate", "kurtosis", "heatmap")
    ]
    for png in figures.values():
        assert png.startswith(b"\x89PNG")
        assert colours(png) > 20
    # vl-convert reports a chart that failed on stderr and returns an empty picture.
    assert "ERROR" not in capfd.readouterr().err


def test_figures_of_what_there_is(capfd: pytest.CaptureFixture[str]) -> None:
    few = synthetic.trajectory().select("step", "fp32_nll_nats")[:3]
    figures = build_figures(
        few, pl.DataFrame(), synthetic.read({"suite": "few", "phases": [], "predictors": None})
    )
    assert list(figures) == ["trajectory.png", "perplexity.png"]
    assert "ERROR" not in capfd.readouterr().err


@pytest.mark.parametrize(("at", "layers"), [(MANY, 37), (list(range(600)), 37)])
def test_the_page_stays_small(at: list[int], layers: int) -> None:
    trajectory = synthetic.trajectory(at)
    tensors = synthetic.tensors(at, layers)
    html = build_report(trajectory, tensors, synthetic.report())
    assert len(html.encode()) <= 1_500_000
    heat = make_heatmap(tensors, make_frame(trajectory, synthetic.report()))
    assert heat is not None
    assert sum(len(rows) * len(rows[0]) for rows in heat.values.values()) <= MAX_CELLS


def test_the_same_input_gives_the_same_page() -> None:
    trajectory = synthetic.trajectory()
    args = (trajectory, pl.DataFrame(), synthetic.report())
    assert build_report(*args) == build_report(*args)


def test_an_empty_trajectory_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one row"):
        build_report(pl.DataFrame({"step": []}), pl.DataFrame(), synthetic.report())


def test_missing_perplexity_and_gap_follow_from_the_loss() -> None:
    table = pl.DataFrame({"step": [1, 0], "fp32_nll_nats": [1.0, 2.0], "int4_nll_nats": [1.5, math.nan]})
    frame = make_frame(table, synthetic.report())
    assert frame.finite("int4_gap") == [(1, pytest.approx(math.exp(0.5) - 1))]
    assert frame.diverged("int4_nll_nats") == [0]
    assert frame.finite("fp32_perplexity") == [
        (0, pytest.approx(math.exp(2))),
        (1, pytest.approx(math.exp(1))),
    ]


def test_variants_of_equal_width_are_told_apart() -> None:
    names = ("fp32", "int4", "int4_g128_sym", "int8", "int3_g64_asym_head")
    table = pl.DataFrame({"step": [0], **{f"{name}_nll_nats": [1.0] for name in names}})
    variants = {"fp32": "fp32", "int4_g128_sym": "int4-g128-sym", "int3_g64_asym_head": "int3-g64-asym+head"}
    frame = make_frame(table, synthetic.report(variants=variants | ALIASES))
    assert [(one.key, one.label) for one in frame.series] == [
        ("fp32", "FP32"),
        ("int8", "INT8"),
        ("int4", "INT4"),
        ("int3_g64_asym_head", "int3-g64-asym+head"),
        ("int4_g128_sym", "int4-g128-sym"),
    ]
    unnamed = make_frame(
        table.select("step", "fp32_nll_nats", q4_0_nll_nats="int8_nll_nats"), synthetic.report()
    )
    assert [one.label for one in unnamed.series] == ["FP32", "q4_0"], "a name is never made from a column"


def test_heat_map_values_survive_packing() -> None:
    import base64

    at = [0, 10, 20]
    tensors = synthetic.tensors(at, layers=2).with_columns(
        relative_error=pl.when(pl.col("step") == 10).then(math.nan).otherwise(pl.col("relative_error"))
    )
    heat = make_heatmap(
        tensors.filter(pl.col("step") != 20), make_frame(synthetic.trajectory(at), synthetic.report())
    )
    assert heat is not None
    packed = heat.packed("int4-g128-asym")
    levels = struct.unpack(f"<{len(heat.rows) * 3}H", base64.b64decode(packed["data"]))
    first = [levels[3 * row] * packed["unit"] for row in range(len(heat.rows))]
    assert first == pytest.approx([row[0] for row in heat.values["int4-g128-asym"]], rel=1e-4)
    assert set(levels[1::3]) == {65_534}
    assert set(levels[2::3]) == {65_535}


def test_the_rows_of_a_module_begin_below_its_heading() -> None:
    at = [0, 10]
    heat = make_heatmap(
        synthetic.tensors(at, layers=3), make_frame(synthetic.trajectory(at), synthetic.report())
    )
    assert heat is not None
    half = 7  # pixels from the middle of a line to the end of its underscores
    for _, middle in heat.headings:
        assert middle >= half
        assert not any(row.y < middle + half and row.y2 > middle - half for row in heat.rows)


def test_the_experts_of_a_layer_are_one_row_whose_error_is_that_of_all_their_weights() -> None:
    frame = make_frame(synthetic.trajectory([0, 10]), synthetic.report())
    generator, experts, rows = np.random.default_rng(0), [], []
    for expert in range(3):
        weight = generator.normal(expert, expert + 1, 40 * (expert + 1))
        error = generator.normal(0, 0.1, weight.size)
        experts.append((weight, error))
        rows.append({
            "step": 0, "variant": "int4-g128-asym", "name": f"model.layers.1.mlp.experts.{expert}.up_proj",
            "n": weight.size, "mean": weight.mean(), "std": weight.std(),
            "relative_error": np.linalg.norm(error) / np.linalg.norm(weight),
        })  # fmt: skip
    rows.append({**rows[0], "name": "model.layers.1.self_attn.q_proj"})
    heat = make_heatmap(pl.DataFrame(rows), frame)
    assert heat is not None
    assert [row.name for row in heat.rows] == ["model.layers.1.mlp.experts.*.up_proj", rows[-1]["name"]]
    weights, errors = (np.concatenate(parts) for parts in zip(*experts, strict=True))
    assert heat.values["int4-g128-asym"][0][0] == pytest.approx(
        np.linalg.norm(errors) / np.linalg.norm(weights)
    )
    assert heat.values["int4-g128-asym"][1][0] == pytest.approx(rows[-1]["relative_error"])
