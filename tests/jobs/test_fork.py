"""The fork command: from words to tables, again after kills, and every request that cannot be carried out."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import Result

from pipeline.runs.folder import RunFolder
from pipeline.runs.shard_schema import FORK
from pipeline.train import find_recipe, pretrain
from tests.jobs.conftest import address, command_here, start
from tests.jobs.disks import fill, small_disk
from tests.models import write_text_corpus
from tests.waiting import wait_for
from tests.workers import HeldTrainingWorker

Run = Callable[..., Result]
ARMS = ("--schedules", "cosine,oli:period=20,noop", "--seeds", "2", "--workers", "1", "--device", "cpu")
SIZE = ("--steps", "40", "--probe-every", "10", "--tokens-per-step", "128")
RUNS = {f"{arm}-seed{seed}" for arm in ("cosine", "oli-period20", "noop") for seed in (0, 1)}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fork")
    (folder / "text").mkdir()
    recipe = dataclasses.replace(find_recipe("micro"), corpus=write_text_corpus(folder / "text"))
    pretrain(recipe, folder / "micro", device="cpu")
    return folder / "micro"


@pytest.fixture(scope="module")
def undisturbed(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fork experiment that nothing happened to, whose worker was this process."""
    out = tmp_path_factory.mktemp("undisturbed")
    (out / "report.json").write_text(
        json.dumps({"suite": "micro", "onset_step": None, "convergence_step": 22})
    )
    result = command_here("fork", suite, "--from", "auto", "--out", out, *ARMS, *SIZE)
    assert result.exit_code == 0, result.output
    assert "starts where full precision converges (step 22)" in result.output
    return out


def tables(out: Path) -> tuple[pl.DataFrame, dict[str, object]]:
    report = json.loads((out / "tables" / "schedules.json").read_text())
    return pl.read_parquet(out / "tables" / "fork.parquet"), {**report, "wall_s": None, "start_rule": None}


def test_every_run_is_in_the_tables_and_drawn(run_here: Run, undisturbed: Path) -> None:
    table, report = tables(undisturbed)
    assert set(table["run_id"]) == RUNS
    assert table.height == 6 * 5 * 3 * 3
    assert not any(name in table.columns for name in ("wall_s", "device", "batch_nll_nats"))
    assert (table["step"].unique().sort() == pl.Series([0, 10, 20, 30, 40])).all()
    settled = table.filter(pl.col("phase_label") == "settled")
    assert set(settled["arm"]) == {"oli-period20"}
    assert set(settled["step"]) == {20, 40}
    compared = {row["arm"]: row for row in report["comparisons"] if row["weights"] == "live"}
    assert compared["oli-period20"]["n_probes"] == 2
    assert (compared["noop"]["n_runs"], compared["noop"]["tests"]["pairs"]) == (
        2,
        2,
    )  # its runs are one and the same
    assert "noop" in " ".join(report["sentences"])
    still = table.filter(pl.col("arm") == "noop").group_by("variant").agg(pl.col("nll_nats").n_unique())
    assert still["nll_nats"].to_list() == [1, 1, 1]
    assert (undisturbed / "fork.html").stat().st_size > 20_000
    assert {path.name for path in (undisturbed / "figures").iterdir()} == {
        "fork_runs.png", "fork_forest.png", "fork_wins.png",
    }  # fmt: skip
    assert "micro fork: 6 done, 0 failed, 0 stale, 0 missing of 6" in run_here("status", undisturbed).output
    state = json.loads(run_here("status", undisturbed, "--json").output)
    assert (state["kind"], state["expected"]) == ("fork", 6)


def test_tables_of_an_earlier_version_are_not_drawn(run_here: Run, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "out")
    file = tmp_path / "out" / "tables" / "schedules.json"
    report = json.loads(file.read_text())
    for row in report["comparisons"]:
        del row["at_end"]
    file.write_text(json.dumps(report))
    result = run_here("report", tmp_path / "out")
    assert result.exit_code == 2
    assert "made by an earlier version" in result.output
    assert "run `int4-collapse reduce" in result.output


def test_the_monitor_judges_runs_that_were_trained_without_it_too(
    run_here: Run, suite: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    result = run_here("fork", suite, "--from", "auto", "--out", out, *ARMS, *SIZE, "--monitor")
    assert result.exit_code == 0, result.output
    assert "6 existed already" in result.output
    assert tables(out)[0].equals(tables(undisturbed)[0])
    live = tables(out)[0].filter((pl.col("weights") == "live") & (pl.col("variant") == "int4-g128-asym"))
    for key in RUNS:
        found = [
            json.loads(line) for line in (out / "monitor" / "fork" / f"{key}.jsonl").read_text().splitlines()
        ]
        own = live.filter(pl.col("run_id") == key)
        assert [each["nll_nats"]["int4"] for each in found] == own["nll_nats"].to_list()
        assert [each["learning_rate"] for each in found] == own["learning_rate"].to_list()
    said = [each for each in tables(out)[1]["sentences"] if each.startswith("Monitor")]  # type: ignore[attr-defined]
    assert len(said) == 1
    assert "9 probes are needed at least and 5 were made" in said[0]
    assert said[0] in (out / "fork.html").read_text()
    assert said[0][:40] in result.output
    again = run_here("reduce", out)  # the folder knows that it is monitored
    assert again.exit_code == 0
    assert said[0] in tables(out)[1]["sentences"]  # type: ignore[operator]


def test_a_run_kept_in_an_object_store_has_the_same_numbers(
    run_here: Run, suite: Path, undisturbed: Path, bucket: str
) -> None:
    out = f"{bucket}/fork"
    reference, report = tables(undisturbed)
    one = ("--schedules", "cosine", "--seeds", "1", "--workers", "1", "--device", "cpu")
    done = run_here(
        "fork", suite, "--from", report["from_step"], "--out", out, *one, *SIZE, "--state-every", "10"
    )
    assert done.exit_code == 0, done.output
    kept = RunFolder(out, FORK)
    table = pl.read_parquet(kept.results.read("tables/fork.parquet") or b"")
    assert table.equals(reference.filter(pl.col("run_id") == "cosine-seed0"))
    assert kept.states.read("cosine-seed0") is None
    assert kept.results.has("fork.html")
    assert "1 done, 0 failed" in run_here("status", out).output


def test_a_rerun_does_nothing_and_more_seeds_add_to_it(
    run_here: Run, suite: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    again = run_here("fork", suite, "--out", out, *ARMS, *SIZE)
    assert "0 trained, 6 existed already" in again.output, again.output
    note = json.loads((out / "fork_train.json").read_text())
    plan = RunFolder(out, FORK).read_plan()
    assert note["tokens_sha256"] == plan.config["train_sha256"]
    assert tables(out)[0].equals(tables(undisturbed)[0])
    more = run_here(
        "fork", suite, "--out", out, "--schedules", "wsd", "--seeds", "1", "--device", "cpu", *SIZE
    )
    assert "1 trained, 6 existed already" in more.output, more.output
    assert set(tables(out)[0]["run_id"]) == RUNS | {"wsd-seed0"}
    stale = run_here(
        "fork", suite, "--out", out, *ARMS, *SIZE[:2], "--probe-every", "5", "--tokens-per-step", "128"
    )
    assert stale.exit_code == 2
    assert "probe_every: 10 -> 5" in stale.output
    shard = out / "shards" / "fork" / "wsd-seed0.arrow"
    shard.write_bytes(shard.read_bytes()[:2000])
    redone = run_here(
        "fork", suite, "--out", out, "--schedules", "wsd", "--seeds", "1", "--device", "cpu", *SIZE
    )
    assert "redone:" in redone.output
    assert "1 trained" in redone.output
    assert RunFolder(out, FORK).read_plan().looks == 1
    seeds = run_here(
        "fork", suite, "--out", out, "--schedules", "wsd", "--seeds", "2", "--device", "cpu", *SIZE
    )
    assert "1 trained, 7 existed already" in seeds.output, seeds.output
    assert json.loads((out / "tables" / "schedules.json").read_text())["looks"] == 2
    assert run_here("reduce", out).exit_code == 0
    shard.unlink()
    incomplete = run_here("reduce", out)
    assert incomplete.exit_code == 1
    assert "wsd-seed0" in incomplete.output
    assert run_here("reduce", out, "--allow-missing").exit_code == 0
    assert run_here("report", out).exit_code == 0
    assert "1 run is missing: wsd-seed0" in (out / "fork.html").read_text()


@pytest.mark.slow
def test_ended_and_resumed_equals_undisturbed(
    run_here: Run, suite: Path, undisturbed: Path, tmp_path: Path, ray_cluster: None
) -> None:
    out = tmp_path / "out"
    command = ("fork", suite, "--from", "20", "--out", out, *ARMS, *SIZE, "--state-every", "7")

    def done() -> set[str]:
        return {path.stem for path in out.glob("shards/fork/*.arrow")}

    def in_training() -> set[str]:
        return {path.stem.rpartition("-step")[0] for path in out.glob("state/fork/*.pt")} - done()

    with start(*command, "--address", address(), worker=HeldTrainingWorker) as process:
        wait_for(lambda: bool(done() and in_training()), process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode != 0, said
    assert (len(done()), len(in_training())) == (1, 1)
    resumed = run_here(*command)
    assert resumed.exit_code == 0, resumed.output
    assert f"{len(RUNS) - 1} trained, 1 existed already" in resumed.output
    assert "continued from its saved state" in resumed.output
    assert tables(out)[0].equals(tables(undisturbed)[0])
    assert tables(out)[1] == tables(undisturbed)[1]
    assert not any(out.glob("state/fork/*"))


def test_a_full_disk_stops_the_experiment_and_a_rerun_ends_it(
    run_here: Run, suite: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path, "4m") as disk:
        out, filler = disk / "out", disk / "filler"
        command = (
            "fork",
            suite,
            "--from",
            "20",
            "--out",
            out,
            "--schedules",
            "cosine,noop",
            "--seeds",
            "1",
            *SIZE,
        )
        full = run_here(*command, after_task=lambda _: fill(filler))
        assert full.exit_code == 1, full.output
        assert "No space left on device" in full.stderr
        assert str(out) in full.stderr
        kept = len(list(out.glob("shards/fork/*.arrow")))
        assert kept == 1
        filler.unlink()
        resumed = run_here(*command)
        assert resumed.exit_code == 0, resumed.output
        assert "1 trained, 1 existed already" in resumed.output
        whole = tables(undisturbed)[0].filter(pl.col("run_id").is_in(["cosine-seed0", "noop-seed0"]))
        by_run = {"by": "run_id", "maintain_order": True}
        assert tables(out)[0].sort(**by_run).equals(whole.sort(**by_run))


def test_a_run_that_diverges_is_kept_and_more_than_one_epoch_is_said(
    run_here: Run, suite: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "few.npy", np.arange(3000) % 300)
    few = ("--train-corpus", f"tokens:{tmp_path / 'few.npy'}", "--allow-epochs")
    arms = (
        "--schedules",
        "cosine,sgdr:eta_max=1e30:period=20",
        "--seeds",
        "1",
        "--workers",
        "1",
        "--device",
        "cpu",
    )
    result = run_here("fork", suite, "--from", "20", "--out", tmp_path / "out", *arms, *SIZE, *few)
    assert result.exit_code == 0, result.output
    table, report = tables(tmp_path / "out")
    assert report["diverged"] == ["sgdr-eta_max1e+30-period20-seed0"]
    assert set(table.filter(pl.col("arm") == "cosine")["status"]) == {"ok"}
    said = " ".join(result.output.split())
    assert "1 run diverged" in said
    assert "1.9 epochs of the 2,700 training tokens" in said
