"""The figure of several audits."""

import numpy as np

from pipeline.analysis.statistics.curves import Curve
from pipeline.report.comparison import comparison_png, comparison_spec


def curve(name: str, *, diverged: bool = False, rate: float | None = 1e-3) -> Curve:
    step = np.arange(0, 1010, 10)
    nll = np.full(len(step), 2.0)
    quantized = nll + 0.05
    if diverged:
        quantized = np.where(step > 500, np.nan, quantized)
    rates = None if rate is None else np.full(len(step), rate)
    return Curve(step, nll, {"int4": quantized}, learning_rate=rates, name=name)


def test_seeds_share_a_colour_and_differ_in_dash():
    spec = comparison_spec(
        [curve("a/wsd-seed0"), curve("a/wsd-seed1"), curve("a/cosine")], "int4", [(100, 200)]
    )
    encoding = spec["vconcat"][0]["layer"][1]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["wsd", "cosine"]
    assert len(set(encoding["color"]["scale"]["range"])) == 2
    assert encoding["strokeDash"]["scale"]["domain"] == [0, 1]
    assert [view["title"]["text"][:4] for view in spec["vconcat"]] == ["INT4", "FP32", "Lear"]
    assert spec["vconcat"][0]["layer"][0]["data"]["values"] == [{"step": 100, "to": 200}]


def test_what_is_not_known_is_left_out_and_what_diverged_is_a_hole():
    spec = comparison_spec([curve("one", diverged=True, rate=None)], "int4", [(0, 10)])
    assert len(spec["vconcat"]) == 2
    rows = spec["data"]["values"]
    assert [row["gap"] is None for row in rows] == [row["step"] > 500 for row in rows]
    assert rows[0]["perplexity"] is None  # the initial fall runs off
    assert comparison_png([curve("one", diverged=True, rate=None)], "int4", [(0, 10)]).startswith(b"\x89PNG")
