"""The paper's experiment from its one command, against a hub that holds a suite named and laid out like Pythia-160m."""

from __future__ import annotations

import json
import math
import subprocess
from contextlib import chdir
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.forked import ROOT, ended
from tests.reproduce.__main__ import main
from tests.reproduce.cost import expected_cost
from tests.reproduce.paper import CLAIMS, FORK_STEPS, FORK_TOKENS, STEPS
from tests.reproduce.paper_table import our_numbers
from tests.reproduce.stand_in import SCALED, pythia_hub, revision_files
from tests.suites.hub.client import environment
from tests.suites.hub.server import Hub, serve

MEASURED = (0, 1, 512, 77_000, 110_000, 143_000)
SHAPE = ("--shape", ",".join(map(str, SCALED)))
SIZE = ("--batches", 4, "--batch-size", 2, "--seq-len", 32, "--device", "cpu", "--workers", 1)
FORK = ("--from", 77_000, "--fork-steps", 40, "--tokens-per-step", 64)


@pytest.fixture(scope="module")
def hub():
    with serve(pythia_hub()) as served:
        yield served


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens")
    draw = np.random.default_rng(0)
    for name, count in (("evaluation", 4 * 2 * 32), ("training", 4_000)):
        np.save(path / f"{name}.npy", draw.integers(0, SCALED[-1], count))
    return path


def reproduce(hub: Hub, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    with chdir(ROOT):  # the program's own package is found there by the commands that it runs
        words = ["pythia-160m", *map(str, arguments)]
        return ended(_reproduce, words, env=environment(hub, home))


def _reproduce(words: list[str]) -> None:
    main(words)


@pytest.mark.slow
def test_one_command_checks_downloads_measures_forks_and_tells(hub, tokens, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    hub.log.clear()
    ran = reproduce(
        hub, home, "--out", out, "--steps", ",".join(map(str, MEASURED)), *SHAPE, *SIZE, *FORK, "--seeds", 2,
        "--corpus", f"tokens:{tokens / 'evaluation.npy'}", "--train-corpus", f"tokens:{tokens / 'training.npy'}",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert set(hub.fetched()) <= {f"step{step}" for step in MEASURED}, "nothing else is downloaded"
    told = json.loads((out / "reproduction.json").read_text())
    assert list(told["revisions"]) == [f"step{step}" for step in STEPS]
    assert told["revisions"] == {name: hub.branches[name] for name in told["revisions"]}
    checks = {each["name"]: each for each in told["checks"]}
    assert all(each["holds"] for each in checks.values() if each["needed"])
    assert checks["equal revisions"]["found"] == "step1 = step0"
    assert checks["weights measured are those that the hub lists"]["found"] == "all"

    ours = {each["key"]: each["ours"] for each in told["claims"]}
    curve = pl.read_csv(out / "audit" / "tables" / "trajectory.csv")
    assert curve["step"].to_list() == list(MEASURED)
    assert ours["checkpoints"]["value"] == len(MEASURED)
    for key, step in (("int4_gap_at_convergence", 77_000), ("int4_gap_last", 143_000)):
        (row,) = curve.filter(pl.col("step") == step).to_dicts()
        gap = 100 * (math.exp(row["int4_nll_nats"] - row["fp32_nll_nats"]) - 1)
        assert ours[key]["value"] == pytest.approx(gap)
        t_975_of_3, half = 3.1824, ours[key]["upper"] - gap
        assert half == pytest.approx(t_975_of_3 * 100 * row["int4_gap_se"], rel=1e-4), "four batches"
        assert ours[key]["lower"] == pytest.approx(gap - half)
    losses = dict(zip(curve["step"], curve["fp32_nll_nats"], strict=True))
    assert ours["fp32_best_step"]["value"] == min(losses, key=losses.__getitem__)
    assert ours["onset_step"]["value"] is None
    assert ours["onset_step"]["reason"], "six checkpoints cannot tell, and the table says why"
    assert ours["sgdr_wins"]["value"].endswith(" of 4")
    schedules = json.loads((out / "fork" / "tables" / "schedules.json").read_text())
    (oli,) = (each for each in schedules["comparisons"] if (each["arm"], each["weights"]) == ("oli", "live"))
    assert ours["oli_gap_points"]["value"] == oli["over_run"]["gap_points"]["estimate"]
    page = (out / "reproduction.md").read_text()
    assert all(f"| {each.what} | {each.paper} |" in page for each in CLAIMS)
    assert "6 of 154 revisions are measured" in page


def test_the_checks_come_before_any_download_and_give_an_empty_table(hub, tmp_path):
    hub.log.clear()
    ran = reproduce(hub, tmp_path / "home", "--out", tmp_path / "out", "--check-only", *SHAPE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not hub.fetched()
    told = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    wanted = {f"step{step}" for step in STEPS if step != 1}
    files = [hub.commits[hub.branches[name]] for name in wanted]
    size = sum(len(each["config.json"]) + len(each["model.safetensors"]) for each in files)
    assert told["expected_cost"]["download_gb"] == pytest.approx(size / 1e9)
    assert all(each["ours"]["value"] is None and each["ours"]["reason"] for each in told["claims"])


def test_a_suite_that_is_not_the_papers_is_refused_by_name(hub, tmp_path):
    whole = dict(hub.branches)
    try:
        del hub.branches["step5000"]
        hub.push("step9000", revision_files(8000))
        ran = reproduce(hub, tmp_path / "home", "--out", tmp_path / "out")
    finally:
        hub.branches.clear()
        hub.branches |= whole
    assert ran.returncode == 1
    assert "missing step5000" in ran.stdout
    assert "step9000 = step8000" in ran.stdout
    assert "revisions" in ran.stderr
    assert "sizes of the model" in ran.stderr, "the stand-in's shape is not Pythia-160m's"
    assert not (tmp_path / "out" / "audit").exists()


def test_an_audit_that_cannot_begin_leaves_an_empty_table_and_its_exit_code(hub, tmp_path):
    out = tmp_path / "out"
    ran = reproduce(hub, tmp_path / "home", "--out", out, *SHAPE, *SIZE, "--corpus", f"tokens:{out}/none.npy")
    assert ran.returncode != 0
    assert not (out / "fork").exists()
    told = json.loads((out / "reproduction.json").read_text())
    (check,) = (each for each in told["checks"] if each["name"].startswith("weights measured"))
    assert not check["holds"], "no shard is no match"
    assert all(each["ours"]["value"] is None for each in told["claims"])


def test_a_wrong_option_is_named(hub, tmp_path):
    for option, value in [("--steps", "1,x"), ("--steps", "5"), ("--shape", "1,2")]:
        ran = reproduce(hub, tmp_path / "home", "--out", tmp_path / "out", option, value)
        assert ran.returncode == 2
        assert value in ran.stderr


def test_the_expected_cost_is_the_measured_one_for_what_was_measured():
    cost = expected_cost(10**9, 154, 9, 400 * 8192)
    assert cost.download_gb == 1
    assert cost.audit_gpu_hours * 3600 == pytest.approx(78.2)
    assert cost.fork_gpu_hours * 3600 == pytest.approx(220.5, abs=0.1)
    assert expected_cost(0, 154, 9, 1_400 * 8192).fork_gpu_hours > cost.fork_gpu_hours


def test_a_folder_without_results_has_no_number():
    numbers = our_numbers(Path("nowhere"), Path("nowhere"))
    assert {each.value for each in numbers.values()} == {None}
    assert {each.reason for each in numbers.values()} == {"not measured"}


def test_the_page_has_the_empty_table_and_the_expected_times():
    page = " ".join((ROOT / "docs" / "reproduce-pythia.md").read_text().split())
    assert all(f"| {each.what} | {each.paper} | |" in page for each in CLAIMS)
    cost = expected_cost(0, len(STEPS) - 1, 9, FORK_STEPS * FORK_TOKENS)
    longer = expected_cost(0, len(STEPS) - 1, 9, 14_300 * FORK_TOKENS)
    assert f"the audit takes about {round(cost.audit_gpu_hours * 360) * 10} s" in page
    assert (
        f"fork about {round(cost.fork_gpu_hours * 60)} minutes ({round(longer.fork_gpu_hours * 60)} min"
        in page
    )
