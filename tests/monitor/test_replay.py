"""Verdicts on audited runs: the committed ones, where INT4 never gets worse, and one that does."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from jobs.cli import main
from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.trajectory.reduction import read_table
from pipeline.base.errors import UsageError
from pipeline.monitor.replay import replay
from pipeline.report.replay_figure import replay_spec

REFERENCE = Path(__file__).parents[2] / "outputs" / "reference"
TABLES = sorted(REFERENCE.glob("**/tables/trajectory.parquet"))
SUITES = [table.parents[1] for table in TABLES if len(pl.read_parquet(table, columns=["step"])) > 12]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(suite.relative_to(REFERENCE)))
def test_no_alarm_where_int4_never_gets_worse(suite: Path) -> None:
    curve = read_table(str(suite / "tables" / "trajectory.parquet"))
    for rule in ("e-detector", "cusum"):
        found = replay(curve, rule=rule)
        assert found.alarm_step is None
        by_rule = {each.rule: each for each in found.rules}
        assert by_rule["monitor"].regret_nats == 0.0
        int4 = curve.variant_nll_nats["int4"]
        assert by_rule["last checkpoint"].regret_nats == pytest.approx(int4[-1] - np.nanmin(int4))
        assert by_rule["patience 3"].stopped_at is not None  # scatter alone outlasts it


def collapsing(rate: float | None) -> Curve:
    """INT4 at its best at step 30,000 of 59,000 and 0.3 nats worse at the end, while full precision improves."""
    step = np.arange(60) * 1000
    noise = np.random.default_rng(0).normal(0, 0.003, (2, 60))
    fp32 = 2 + 0.5 * np.exp(-step / 8000) + noise[0]
    int4 = fp32 + 0.05 + 0.3 * np.clip((step - 30_000) / 29_000, 0, None) + noise[1]
    rates = None if rate is None else np.full(60, rate)
    return Curve(step=step, fp32_nll_nats=fp32, variant_nll_nats={"int4": int4}, learning_rate=rates)


def test_a_collapse_is_told_and_a_stop_advised_at_a_constant_rate_alone() -> None:
    found = replay(collapsing(1e-3))
    assert found.alarm_step is not None
    assert 30_000 < found.alarm_step <= 48_000
    ours = found.rules[0]
    assert ours.stopped_at == found.alarm_step
    assert ours.delay_steps == found.alarm_step - found.best_step
    assert ours.regret_nats == 0.0
    assert {each.rule: each.regret_nats for each in found.rules}["last checkpoint"] > 0.25
    unknown = replay(collapsing(None))
    assert unknown.alarm_step == found.alarm_step
    assert unknown.rules[0].stopped_at is None


def test_a_last_checkpoint_that_repeats_an_earlier_one_costs_what_that_one_does() -> None:
    curve = collapsing(1e-3)
    source = np.where(np.arange(60) < 55, np.arange(60), 10)
    fp32, int4 = curve.fp32_nll_nats[source], curve.nll("int4")[source]
    found = replay(Curve(curve.step, fp32, {"int4": int4}, duplicate=np.arange(60) >= 55))
    by_rule = {each.rule: each for each in found.rules}
    assert by_rule["last checkpoint"].regret_nats == pytest.approx(int4[-1] - int4.min())


def test_a_run_of_too_little_is_refused() -> None:
    curve = collapsing(None)
    with pytest.raises(UsageError, match="int8"):
        replay(curve, "int8")
    nothing = Curve(curve.step, curve.fp32_nll_nats, {"int4": np.full(60, math.nan)})
    with pytest.raises(UsageError, match="finite"):
        replay(nothing)


def test_the_command_gives_both_forms_and_refuses_a_folder_without_an_audit(tmp_path: Path) -> None:
    suite = tmp_path / "run"
    (suite / "tables").mkdir(parents=True)
    shutil.copy(SUITES[0] / "tables" / "trajectory.parquet", suite / "tables")
    said = CliRunner().invoke(main, ["monitor", "--replay", str(suite)])
    assert said.exit_code == 0, said.output
    assert "no alarm" in said.output
    assert (suite / "figures" / "monitor.png").read_bytes().startswith(b"\x89PNG")
    found = CliRunner().invoke(main, ["monitor", "--replay", str(suite), "--json"])
    plain = json.loads(found.output)
    assert len(plain["verdicts"]) == plain["n_checkpoints"]
    assert {each["rule"] for each in plain["rules"]} >= {"monitor", "patience 3"}
    assert plain["verdicts"][-1]["best_step"] == plain["best_step"]
    table, figure = str(suite / "tables" / "trajectory.parquet"), tmp_path / "f.png"
    assert CliRunner().invoke(main, ["monitor", "--replay", table, "--figure", str(figure)]).exit_code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    unreduced = CliRunner().invoke(main, ["monitor", "--replay", str(tmp_path)])
    assert unreduced.exit_code == 2
    assert "int4-collapse reduce" in unreduced.stderr


def test_a_figure_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    figure = tmp_path / "new" / "deep" / "f.png"
    arguments = [
        "monitor",
        "--replay",
        str(SUITES[0] / "tables" / "trajectory.parquet"),
        "--figure",
        str(figure),
    ]
    for _ in range(2):
        told = CliRunner().invoke(main, arguments)
        assert told.exit_code == 0, told.output
        assert figure.read_bytes().startswith(b"\x89PNG")
        figure.write_bytes(b"old")


@pytest.mark.parametrize("figure", ["there.png", "there.png/in/f.png", "s3://bucket/f.png", "f.PDF"])
def test_a_figure_that_cannot_be_written_is_wrong_usage_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").mkdir()
    if "/in/" in figure:
        (tmp_path / "there.png" / "in").write_bytes(b"")
    told = CliRunner().invoke(main, ["monitor", "--replay", "missing.csv", "--figure", figure])
    assert told.exit_code == 2
    assert figure in told.stderr


def test_a_figure_of_another_format_is_refused(tmp_path: Path) -> None:
    table, figure = str(SUITES[0] / "tables" / "trajectory.parquet"), tmp_path / "f.pdf"
    told = CliRunner().invoke(main, ["monitor", "--replay", table, "--figure", str(figure)])
    assert told.exit_code == 2
    assert not figure.exists()


def test_the_chart_shows_every_rule_and_only_finite_losses() -> None:
    curve = collapsing(1e-3)
    curve.variant_nll_nats["int4"][5] = math.nan
    found = replay(curve)
    losses, evidence, regrets = (view["layer"] for view in replay_spec(found)["vconcat"])
    drawn = losses[0]["data"]["values"]
    assert len(drawn) == 2 * 60 - 1
    assert all(math.isfinite(each["loss"]) for each in drawn)
    stops = {each["rule"]: each["step"] for each in losses[1]["data"]["values"]}
    assert stops["monitor"] == found.alarm_step
    assert "last checkpoint" not in stops
    assert max(each["share"] for each in evidence[0]["data"]["values"]) >= 1
    assert [each["rule"] for each in regrets[0]["data"]["values"]] == [each.rule for each in found.rules]
