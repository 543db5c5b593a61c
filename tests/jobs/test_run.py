"""The main job, from a recipe to a report, on a model trained in seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import Result

from tests.jobs.conftest import command, command_here, trajectory
from tests.models import write_text_corpus
from tests.run_files import read_checked

Run = Callable[..., Result]

REPORT_KEYS = {
    "suite", "n_checkpoints", "convergence_step", "convergence_ci", "onset_step", "onset_ci", "phases", "predictors",
    "int4_gap_first", "int4_gap_last", "int4_gap_max", "int8_gap_max", "kurtosis_test", "duplicates", "failures",
    "best_checkpoint_for_int4", "decision", "wall_s", "versions",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pretrained ``micro`` suite in ``suite`` and a finished run in ``out``."""
    folder = tmp_path_factory.mktemp("run")
    corpus = write_text_corpus(folder / "text")
    for arguments in (
        ["pretrain", "micro", "--corpus", corpus, "--device", "cpu", "--out", folder / "suite"],
        ["run", folder / "suite", "--out", folder / "out"],
    ):
        result = command_here(*arguments)
        assert result.exit_code == 0, result.output
    return folder


def test_run_leaves_tables_numbers_report_and_figures(trained: Path) -> None:
    out = trained / "out"
    report = json.loads((out / "report.json").read_text())
    assert report.keys() >= REPORT_KEYS
    assert 0 <= report["idle_share"] < 1
    suite = json.loads((trained / "suite" / "suite.json").read_text())
    steps = [entry["step"] for entry in suite["checkpoints"]]
    table = trajectory(out)
    assert table["step"].to_list() == steps
    assert report["n_checkpoints"] == len(steps)
    assert table["learning_rate"].to_list() == [entry["learning_rate"] for entry in suite["checkpoints"]]
    assert table["weights_sha256"].to_list() == [entry["sha256"] for entry in suite["checkpoints"]]
    assert report["decision"]["unit"] == "sequence"
    assert report["duplicates"] == {"step000000001": "step000000000"}, "the first update has learning rate 0"
    assert (out / "report.html").stat().st_size > 500_000
    assert (out / "figures" / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    assert pl.read_csv(out / "tables" / "trajectory.csv").height == len(steps)


def test_the_table_repeats_what_the_shards_say(trained: Path) -> None:
    out = trained / "out"
    for row in trajectory(out).iter_rows(named=True):
        shard = read_checked(out / "shards" / "audit" / f"step{row['step']:09d}.arrow").to_pylist()
        by_variant = {each["variant"]: each for each in shard}
        fp32, int4 = by_variant["fp32"], by_variant["int4-g128-asym"]
        assert row["fp32_nll_nats"] == fp32["nll_nats"]
        assert row["int4_sequence_nll_nats"] == int4["sequence_nll_nats"]
        assert row["int4_gap"] == pytest.approx(int4["perplexity"] / fp32["perplexity"] - 1, abs=1e-12)
        difference = np.subtract(int4["batch_nll_nats"], fp32["batch_nll_nats"])
        error = difference.std(ddof=1) / np.sqrt(len(difference)) * np.exp(difference.mean())
        assert row["int4_gap_se"] == pytest.approx(error, rel=1e-12)
        assert row["kurtosis"] == pytest.approx(np.mean([t["kurtosis"] for t in fp32["tensors"]]), rel=1e-12)
        errors = [t["relative_error"] for t in int4["tensors"]]
        assert row["int4_relative_error"] == pytest.approx(np.mean(errors), rel=1e-12)
        n = [t["n"] for t in int4["tensors"]]
        shares = [t["boundary_fraction"] for t in int4["tensors"]]
        assert row["int4_boundary_fraction"] == pytest.approx(np.average(shares, weights=n), rel=1e-12)


def test_reducing_again_gives_the_same_bytes(trained: Path, run_here: Run) -> None:
    out = trained / "out"
    before = {path.name: path.read_bytes() for path in (out / "tables").iterdir()}
    assert run_here("reduce", out).exit_code == 0
    assert {path.name: path.read_bytes() for path in (out / "tables").iterdir()} == before


def test_phases_reads_the_table_back_with_the_keys_of_the_report(trained: Path, run_here: Run) -> None:
    table = trained / "out" / "tables" / "trajectory.csv"
    result = run_here("phases", table, table.with_suffix(".parquet"), "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 2
    report = json.loads((trained / "out" / "report.json").read_text())
    for line in lines:
        for key in ("n_used", "n_duplicates", "int4_gap_last", "best_checkpoint_for_int4"):
            assert line[key] == report[key]
    assert [line["intervals"] for line in lines] == ["checkpoints", "checkpoints and text"]
    assert {key: lines[1][key] for key in lines[1] if key != "table"}.items() <= report.items()


def test_suites_lists_checkpoints_in_numeric_order_with_their_duplicates(
    trained: Path, run_here: Run
) -> None:
    result = run_here("suites", trained / "suite")
    assert result.exit_code == 0
    assert result.stdout.index("\tstep2\t") < result.stdout.index("\tstep10\t")
    assert "same content: step0, step1" in result.output


def test_a_nan_loss_is_kept_and_a_missing_column_of_learning_rates_is_not_invented(
    tmp_path: Path, run_here: Run
) -> None:
    steps = np.arange(40) * 10
    rng = np.random.default_rng(0)
    fp32 = 2 + np.exp(-steps / 60) + rng.normal(0, 0.002, 40)
    int4 = fp32 + 0.03 + rng.normal(0, 0.002, 40)
    int4[-3:] = np.nan
    path = tmp_path / "t.csv"
    pl.DataFrame({"step": steps, "fp32_nll_nats": fp32, "int4_nll_nats": int4}).write_csv(path)
    result = run_here("phases", path, "--json")
    assert result.exit_code == 0, result.output
    (line,) = [json.loads(text) for text in result.stdout.splitlines()]
    assert line["n_not_finite"] == 3
    rates = [event["step"] for event in line["predictors"]["events"] if "learning" in event["event"]]
    assert set(rates) <= {None}


def test_compare_reads_the_shards_of_audits(trained: Path) -> None:
    def compare(*arguments: str) -> Result:
        return command("compare", *arguments)

    out = str(trained / "out")
    told = compare(out, out, "--before", "5:15", "--end", "20:30", "--json")
    assert told.exit_code == 0, told.output
    first, second = (json.loads(line) for line in told.output.splitlines())
    table = trajectory(trained / "out")
    gaps = dict(zip(table["step"], table["int4_gap"], strict=True))
    assert first["before"]["estimate"] == pytest.approx(np.mean([gaps[step] for step in (5, 8, 10, 15)]))
    assert first["before"]["lower"] < first["before"]["estimate"] < first["before"]["upper"]
    # a gap of so few steps of so small a model may be nothing, and then has no growth
    told_from_nothing = first["before"]["lower"] > 0
    assert (first["growth"] is not None) == (second["against"] is not None) == told_from_nothing
    assert first["against"] is None
    drawn = compare(
        out, out, "--before", "5:15", "--end", "20:30", "--variant", "all", "--out", str(trained / "drawn")
    )
    assert drawn.exit_code == 0, drawn.output
    numbers = json.loads((trained / "drawn" / "comparison.json").read_text())
    assert [each["variant"] for each in numbers["found"]] == ["int8", "int8", "int4", "int4"]
    assert numbers["found"][2]["growth"] == first["growth"]
    assert (trained / "drawn" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    url = compare(out, "--before", "5:15", "--end", "20:30", "--out", "s3://bucket/x")
    assert (url.exit_code, "--out s3://bucket/x: this has to be a folder" in url.stderr) == (2, True)
    wrong = compare(out, "--before", "5:15", "--end", "100:200")
    assert (wrong.exit_code, "its steps go from 0 to 30" in wrong.stderr) == (2, True)
    other = trained / "other"
    shutil.copytree(trained / "out", other)
    plan = json.loads((other / "run.json").read_text())
    plan["config"]["tokens_sha256"] = "0" * 64
    (other / "run.json").write_text(json.dumps(plan))
    mixed = compare(out, str(other), "--before", "5:15", "--end", "20:30")
    assert (mixed.exit_code, "on other tokens" in mixed.stderr) == (2, True)


def refined(run_here: Run, suite: Path, out: Path, *more: object) -> tuple[Result, dict[str, Any]]:
    """A run that refines on the last four checkpoints, which so little text does not tell apart."""
    steps = [entry["step"] for entry in json.loads((suite / "suite.json").read_text())["checkpoints"]][-4:]
    result = run_here(
        "run", suite, "--out", out, "--steps", ",".join(map(str, steps)), "--batches", "2", "--batch-size", "4",
        "--seq-len", "16", "--level", "0.999", "--refine", *more,
    )  # fmt: skip
    return result, json.loads((out / "report.json").read_text())["decision"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["int4-g128-asym", "int4-g8-asym@gptq"])
def test_the_undecided_checkpoints_are_measured_again_on_new_tokens(
    trained: Path, run_here: Run, tmp_path: Path, variant: str
) -> None:
    out = tmp_path / "out"
    result, decided = refined(
        run_here, trained / "suite", out, "--variant", variant, "--calibration-sequences", "4"
    )
    assert result.exit_code == 0, result.output
    rounds = decided["refined"]["rounds"]
    assert rounds[0]["steps"] == decided["maybe_best"]
    assert rounds[0]["batches"] == 32
    assert rounds[0]["n_tokens"] == len(decided["maybe_best"]) * 32 * 4 * 16
    assert decided["refined"]["sentence"] in decided["sentence"]
    first, new = (np.load(folder / "tokens.npy") for folder in (out, out / "refined-32"))
    assert first.size == 128
    assert new.size == 2048
    assert not np.array_equal(new.ravel()[:128], first.ravel())
    calibrated = [
        {path.name for path in folder.glob("calibration/*.npy")} for folder in (out, out / "refined-32")
    ]
    assert calibrated[0] == calibrated[1]  # the same quantized model, on other text
    assert len(calibrated[0]) == variant.endswith("@gptq")


@pytest.mark.slow
def test_checkpoints_are_not_measured_again_on_text_that_they_were_calibrated_on(
    trained: Path, run_here: Run, tmp_path: Path
) -> None:
    text = np.load(trained / "suite" / "eval_tokens.npy")
    np.save(tmp_path / "calibration.npy", text[256:512])  # of the evaluation text, after the first batches
    result, decided = refined(
        run_here, trained / "suite", tmp_path / "out", "--variant", "int4-g8-asym@gptq",
        "--calibration", f"tokens:{tmp_path}/calibration.npy", "--calibration-sequences", "16",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert decided["refined"]["rounds"] == []
    assert "was calibrated on some of the next 32 batches" in decided["refined"]["ended"]
