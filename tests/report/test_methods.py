"""Methods in the report: variants under their grids, what each repairs, and what it could not do."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.analysis.trajectory.method_repair import AffectedMatrices, calibration_problems
from pipeline.base.typed_json import to_json
from pipeline.report import build_figures, build_report
from pipeline.report.frame import make_frame, named_series
from tests.report import synthetic

NAMES = {
    "fp32": "fp32", "int8": "int8-channel-sym", "int4": "int4-g128-asym", "int4_g128_asym_hqq": "int4-g128-asym@hqq",
}  # fmt: skip
SENTENCE = "hqq leaves 38% (35% to 41%) of the gap of round-to-nearest int4-g128-asym at step 1,430."
REPORT = synthetic.report(
    variants=NAMES,
    verdict=[SENTENCE],
    methods=[
        {
            "variant": "int4-g128-asym@hqq",
            "method": "hqq",
            "rounded": "int4-g128-asym",
            "sentence": SENTENCE,
            "first": None,
            "last": None,
            "n_known": 0,
        }
    ],
)


@pytest.fixture(scope="module")
def trajectory() -> pl.DataFrame:
    column = "int4_g128_asym_hqq"
    table = synthetic.trajectory(variants=("int8", "int4", column))
    ratio = pl.when(pl.col("step") > 100).then(0.9 - pl.col("step") / 3000)
    return table.with_columns(
        ratio.alias(f"{column}_gap_over_rtn"),
        (ratio - 0.05).alias(f"{column}_gap_over_rtn_lower"),
        (ratio + 0.05).alias(f"{column}_gap_over_rtn_upper"),
    )


def test_variants_stand_under_the_grid_that_they_share(trajectory: pl.DataFrame) -> None:
    series = {one.key: one for one in make_frame(trajectory, REPORT).series}
    assert (series["int4"].label, series["int4_g128_asym_hqq"].label) == ("INT4", "int4-g128-asym@hqq")
    assert series["int4"].grid == series["int4_g128_asym_hqq"].grid == "int4-g128-asym"
    assert series["int4_g128_asym_hqq"].method == "hqq"
    tensors = synthetic.tensors(trajectory["step"].to_list()[::20], variants=tuple(NAMES.values())[1:])
    html = build_report(trajectory, tensors, REPORT)
    for group in ('role="group" aria-label="int4-g128-asym"', '<optgroup label="int4-g128-asym">'):
        assert group in html
    menu = html[html.index('<optgroup label="int4-g128-asym">') :].split("</optgroup>")[0]
    assert menu.count("<option>") == 2
    plain = build_report(synthetic.trajectory(), tensors, synthetic.report())
    assert "<optgroup" not in plain
    assert "panel-methods" not in plain


def test_a_name_of_an_absent_plug_in_is_a_grid_of_its_own() -> None:
    (one,) = named_series(["odd"], {"odd": "odd-g8@trick"})
    assert (one.grid, one.method) == ("odd-g8@trick", "")


def test_what_methods_repair_is_drawn_and_said(
    trajectory: pl.DataFrame, capfd: pytest.CaptureFixture[str]
) -> None:
    html = build_report(trajectory, pl.DataFrame(), REPORT)
    assert 'id="panel-methods"' in html
    assert html.count(SENTENCE) == 1
    figures = build_figures(trajectory, pl.DataFrame(), REPORT)
    assert figures["methods.png"].startswith(b"\x89PNG")
    assert "ERROR" not in capfd.readouterr().err


def test_what_a_method_could_not_do_is_counted_by_reason() -> None:
    rows = [
        {
            "step": step, "variant": "int4-g128-asym@gptq", "name": f"layers.{layer}.mlp",
            "rounded_to_nearest": int(layer == 1),
            "calibration_problem": "its second moments have no <factor>" if layer < 2 and step == 0 else None,
        }
        for step in (0, 10) for layer in range(4)
    ]  # fmt: skip
    (found,) = calibration_problems(pl.DataFrame(rows))
    assert found == AffectedMatrices(
        variant="int4-g128-asym@gptq", problem="its second moments have no <factor>", matrices=2, cases=2,
        rounded=1, first_step=0, last_step=0, examples=("layers.0.mlp", "layers.1.mlp"),
    )  # fmt: skip
    calibrated = {"calibration": {"text": "self", "tokens_sha256": "c" * 64}}
    given = synthetic.report(calibration_problems=[to_json(found)], **calibrated)
    html = build_report(synthetic.trajectory(), pl.DataFrame(), given)
    assert "have no &lt;factor&gt;" in html
    nothing = synthetic.report(calibration_problems=[], **calibrated)
    none = build_report(synthetic.trajectory(), pl.DataFrame(), nothing)
    assert "every matrix was calibrated" in none
    assert calibration_problems(pl.DataFrame({"step": [0]})) == ()
