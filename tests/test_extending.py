"""The four plug-ins of docs/extending.md, each from the command line to its report, in real workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.runs.folder import RunFolder
from pipeline.runs.shard_schema import FORK
from tests.forked import ROOT, ended
from tests.jobs.conftest import command, command_here
from tests.models import VOCAB, save_tiny_suite

PLUGINS = ROOT / "tests" / "plugins"
NAMES = ("ternary", "top5", "sawtooth", "zeros")

SIZE = ("--batches", "2", "--batch-size", "2", "--seq-len", "32", "--workers", "1", "--device", "cpu")


def run(commands: list[tuple[list[str], int, bool]], plugins: list[Path], *, cluster: bool = True) -> str:
    """What the commands say, in a process of their own that knows ``plugins``, on the session's ``cluster``.

    Each comes with its exit code and with whether its worker is a process of its own, as a user's always is.
    """
    import ray

    environment = {"INT4_COLLAPSE_PLUGINS": ",".join(map(str, plugins))}
    if cluster:
        environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ran = ended(carry_out, commands, env={**os.environ, **environment})
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def carry_out(commands: list[tuple[list[str], int, bool]]) -> None:
    for words, code, own_worker in commands:
        result = (command if own_worker else command_here)(*words)
        print(result.exit_code, result.output)
        assert result.exit_code == code, result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of three checkpoints and tokens for it."""
    folder = tmp_path_factory.mktemp("extending")
    save_tiny_suite("llama", folder / "suite", ["step0", "step10", "step20"])
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, VOCAB, 20_000))
    return folder


@pytest.fixture(scope="module")
def out(work: Path, ray_cluster: None) -> Path:
    """One folder in which all four have done their work, and beside it one of a fifth that fails at a checkpoint."""
    suite, out, corpus = str(work / "suite"), str(work / "out"), f"tokens:{work / 'tokens.npy'}"
    audit = [
        "run",
        suite,
        "--out",
        out,
        "--corpus",
        corpus,
        "--variant",
        "ternary",
        "--measure",
        "top5",
        *SIZE,
    ]
    fork = [
        "fork", suite, "--out", out, "--from", "20", "--corpus", corpus, "--train-corpus", corpus, "--seeds", "1",
        "--schedules", "cosine,sawtooth:period=4", "--steps", "8", "--probe-every", "2", "--tokens-per-step", "64",
        "--learning-rate", "1e-3", *SIZE,
    ]  # fmt: skip
    zeros = ["zeros", suite, "--out", out, "--set", "at_most=0.001", "--workers", "1", "--device", "cpu"]
    text = (PLUGINS / "zeros.py").read_text().replace('"zeros"', '"fragile"').replace("zeros.", "fragile.")
    failing = "        if task.checkpoint.step == 10:\n            1 / 0\n        limit ="
    (work / "fragile.py").write_text(text.replace("        limit =", failing))
    fragile = ["fragile", suite, "--out", out, "--workers", "1", "--device", "cpu"]
    commands = [(audit, 0, True), (fork, 0, False), (zeros, 0, False), (["status", out], 0, False)]
    plugins = [*(PLUGINS / f"{name}.py" for name in NAMES), work / "fragile.py"]
    said = run([*commands, (fragile, 1, False)], plugins)
    assert "suite: 3 done" in said
    assert "suite zeros: 3 done" in said
    (work / "said").write_text(said)
    return work / "out"


@pytest.mark.slow
def test_a_quantizer_of_one_file_is_measured_and_shown(out: Path) -> None:
    table = pl.read_parquet(out / "tables" / "trajectory.parquet")
    assert table["ternary_nll_nats"].is_finite().all()
    assert (table["ternary_relative_error"] > 0.3).all()  # two bits do not hold a normal distribution
    assert "ternary" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_measurement_of_one_file_is_a_column_of_the_tables_and_a_choice_of_the_report(out: Path) -> None:
    shares = pl.read_parquet(out / "tables" / "trajectory.parquet")["ternary_top5_share"]
    assert ((shares >= 0) & (shares <= 0.2)).all()  # 5 of 320 tokens, by chance 1.6 %
    assert "Correct token among the top 5" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_schedule_of_one_file_is_trained_compared_by_its_phase_and_drawn(out: Path) -> None:
    runs = pl.from_arrow(RunFolder(out, FORK).shards.read("sawtooth-period4-seed0").table)
    live = runs.filter((pl.col("weights") == "live") & (pl.col("variant") == "fp32")).sort("step")
    assert live["phase_label"].to_list()[2:] == ["low", "high", "low"]  # after updates 4, 6 and 8
    report = json.loads((out / "tables" / "schedules.json").read_text())
    row = next(each for each in report["comparisons"] if each["arm"] == "sawtooth-period4")
    assert (row["probes"], row["n_probes"]) == ("low", 2)
    page = (out / "fork.html").read_text()
    assert "in its low phases" in page
    assert "of sawtooth the low ones" in page


@pytest.mark.slow
def test_a_kind_of_work_of_one_file_has_a_command_tables_and_a_page(out: Path, work: Path) -> None:
    table = pl.read_csv(out / "tables" / "zeros.csv")
    assert table["revision"].to_list() == ["step0", "step10", "step20"]
    from safetensors.numpy import load_file

    weights = load_file(work / "suite" / "step10" / "model.safetensors").values()
    counted = sum(int((np.abs(each) <= 0.001).sum()) for each in weights)
    assert table["n_zeros"][1] == counted
    assert str(counted) in (out / "zeros.html").read_text()


@pytest.mark.slow
def test_one_that_raises_fails_its_checkpoint_by_name(out: Path, work: Path) -> None:
    said = (work / "said").read_text()
    assert "failed: step000000010: unexpected ZeroDivisionError at fragile.py" in said
    assert pl.read_csv(out / "tables" / "fragile.csv")["step"].to_list() == [0, 20]


@pytest.mark.gpu
def test_the_quantizer_and_the_measurement_give_the_same_on_a_gpu(work: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        command = [
            "run", str(work / "suite"), "--out", str(out), "--corpus", f"tokens:{work / 'tokens.npy'}",
            "--variant", "ternary", "--measure", "top5", *SIZE[:-1], device,
        ]  # fmt: skip
        run([(command, 0, True)], [PLUGINS / "ternary.py", PLUGINS / "top5.py"], cluster=False)
        found[device] = pl.read_parquet(out / "tables" / "trajectory.parquet")
    for column, tolerance in (("ternary_nll_nats", 1e-5), ("ternary_top5_share", 0.02)):
        pairs = zip(found["cpu"][column], found["cuda"][column], strict=True)
        assert all(abs(one - other) <= tolerance for one, other in pairs), column


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_files_as_they_are(name: str) -> None:
    assert (
        f"```python\n{(PLUGINS / f'{name}.py').read_text()}```"
        in (ROOT / "docs" / "extending.md").read_text()
    )


def test_a_file_in_the_folder_of_its_set_is_found_without_another_change(tmp_path: Path) -> None:
    for package in ("jobs", "pipeline"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    places = ("quantize", "measurements", "train/schedules", "kinds")
    for name, place in zip(NAMES, places, strict=True):
        shutil.copy(PLUGINS / f"{name}.py", tmp_path / "pipeline" / place)
    said = [
        subprocess.run(
            [sys.executable, "-m", "jobs", *words, "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for words in ((), ("audit",), ("fork",), ("zeros",))
    ]
    for name, text in zip(("zeros", "ternary", "sawtooth", "at_most=0.0"), said, strict=True):
        assert name in text
    assert "top5" in said[1]
