"""The audit of local folders: what is measured, what fails, what exits how."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result

from tests.jobs.conftest import MEASURE, trajectory
from tests.models import VOCAB
from tests.run_files import read_checked

Run = Callable[..., Result]


def damage(suite: Path) -> None:
    """Truncates step10, puts a NaN into step20 and makes step50 a copy of step40."""
    truncated = suite / "step10" / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    path = suite / "step20" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    shutil.rmtree(suite / "step50")
    shutil.copytree(suite / "step40", suite / "step50")


def test_broken_checkpoints_fail_by_name_and_the_rest_is_measured(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    damage(llama_suite)
    out = tmp_path / "out"
    result = run_here("audit", llama_suite, "--corpus", tokens_file, "--out", out, *MEASURE)
    assert result.exit_code == 1
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed:")]
    assert len(failed) == 2
    assert "step10: " in failed[0]
    assert "truncated" in failed[0]
    assert "step20: tensor model.layers.0.mlp.up_proj.weight holds 1 NaN" in failed[1]
    assert "duplicate: step50 has the same content as step40" in result.stderr
    steps = [0, 30, 40, 50]
    assert sorted(p.stem for p in (out / "shards" / "audit").glob("*.arrow")) == [
        f"step{s:09d}" for s in steps
    ]

    status = json.loads(run_here("status", out, "--json").stdout)
    assert sorted(status["failed"]) == ["step000000010", "step000000020"]
    assert status["duplicates"] == {"step000000050": "step000000040"}

    refused = run_here("reduce", out)
    assert refused.exit_code == 1
    assert "step10, step20" in refused.stderr
    assert not (out / "tables").exists()

    allowed = run_here("reduce", out, "--allow-missing")
    assert allowed.exit_code == 0, allowed.output
    assert "2 expected checkpoints are missing" in " ".join(allowed.output.split())
    report = json.loads((out / "report.json").read_text())
    assert report["missing"] == ["step000000010", "step000000020"]
    assert set(report["failures"]) == {"step000000010", "step000000020"}
    assert trajectory(out)["duplicate_of"].to_list() == [None, None, None, "step000000040"]

    for shard in (out / "shards" / "audit").glob("*.arrow"):
        shard.unlink()
    nothing = run_here("reduce", out, "--allow-missing")
    assert nothing.exit_code == 1
    assert "again to finish them" in nothing.stderr
    assert "or pass --allow-missing" not in nothing.stderr, "it was passed"


def test_a_duplicate_repeats_the_numbers_of_its_original(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    damage(llama_suite)
    out = tmp_path / "out"
    run_here("audit", llama_suite, "--corpus", tokens_file, "--out", out, "--steps", "40,50", *MEASURE)
    original, copy = (read_checked(out / "shards" / "audit" / f"step{s:09d}.arrow") for s in (40, 50))
    same = [name for name in original.column_names if name not in ("revision", "step", "duplicate_of")]
    assert original.select(same).equals(copy.select(same))
    assert set(copy["duplicate_of"].to_pylist()) == {"step000000040"}
    assert json.loads(original.schema.metadata[b"duplicates"]) == ["step000000050"]


def test_the_failed_ones_are_measured_once_they_are_mended(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    good = (llama_suite / "step10" / "model.safetensors").read_bytes()
    damage(llama_suite)
    audit = (
        "audit",
        llama_suite,
        "--corpus",
        tokens_file,
        "--out",
        tmp_path / "out",
        "--limit",
        "2",
        *MEASURE,
    )
    assert run_here(*audit).exit_code == 1
    (llama_suite / "step10" / "model.safetensors").write_bytes(good)
    again = run_here(*audit)
    assert again.exit_code == 0, again.output
    assert "1 shard exists already; 1 to measure" in again.stdout
    assert json.loads(run_here("status", tmp_path / "out", "--json").stdout)["failed"] == {}


def test_numbers_of_other_variants_are_not_passed_off_as_int4(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", out, "--limit", "3", *MEASURE)
    assert run_here(*audit, "--variant", "int3-g16-sym").exit_code == 0
    assert run_here("reduce", out).exit_code == 0
    report = json.loads((out / "report.json").read_text())
    for key in (
        "int4_gap_first",
        "int4_gap_last",
        "int4_gap_max",
        "int8_gap_max",
        "best_checkpoint_for_int4",
    ):
        assert report[key] is None
    assert report["variant"] == "int3_g16_sym"


def test_a_cluster_that_does_not_answer_is_wrong_usage(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    from tests.jobs.conftest import start

    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE)
    with start(*audit, "--address", "127.0.0.1:9") as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "127.0.0.1:9" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("audit", "tinny", "--out", "{out}"), "did you mean 'tiny'"),
        (("audit", "{tmp}/lama", "--out", "{out}"), "llama"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--steps", "11", "--out", "{out}"), "0, 10, 20"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--steps", "a", "--out", "{out}"), "whole numbers"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--variant", "int9", "--out", "{out}"), "int{2..8}"),
        (("audit", "{suite}", "--corpus", "docstring", "--out", "{out}"), "docstrings"),
        (("audit", "{suite}", "--corpus", "docstrings", "--seq-len", "32", "--out", "{out}"), "no tokenizer"),
        (("audit", "{suite}", "--seq-len", "32", "--out", "{out}"), "no tokenizer"),
        (
            ("audit", "{suite}", "--corpus", "tokens:nowhere.npy", "--seq-len", "32", "--out", "{out}"),
            "nowhere.npy",
        ),
        (("audit", "{suite}", "--corpus", "{tokens}", "--seq-len", "64", "--out", "{out}"), "8192|8,192"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--seq-len", "65", "--out", "{out}"), "at most 64"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--batches", "0", "--out", "{out}"), "at least 1"),
        (
            ("audit", "{suite}", "--corpus", "{tokens}", "--device", "gpu", "--out", "{out}"),
            "auto, cpu or cuda",
        ),
        (("audit", "{suite}", "--corpus", "{tokens}", "--out", "{tokens_path}"), "is a file"),
        (
            ("audit", "{suite}", "--corpus", "{tokens}", "--out", "{tokens_path}/sub"),
            "is a file; wanted a folder",
        ),
        (("reduce", "{tmp}"), "no run in"),
        (("reduce", "{out}"), "no run in"),
        (("report", "{tmp}"), "reduce"),
        (("status", "{tmp}"), "no run in"),
        (("phases", "{tmp}/nowhere.csv"), "does not exist"),
        (("phases", "{suite}"), r"\.csv"),
        (("pretrain", "tinny", "--out", "{out}"), "tiny"),
        (("suites", "nowhere"), "unknown suite"),
        (("audot",), "did you mean 'audit'"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--out", ""), "wanted a folder"),
        (("audit", "{suite}", "--corpus", "{tokens}", "--out", "~nobody-here/x"), "cannot be used"),
        (("status", ""), "wanted a folder"),
        (("phases", "x.csv", "--seed", "-1"), "--seed"),
    ],
)
def test_wrong_usage_exits_2_names_the_way_out_and_writes_nothing(
    run_here: Run,
    llama_suite: Path,
    tokens_file: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    names = {
        "out": tmp_path / "out", "tmp": tmp_path, "suite": llama_suite, "tokens": tokens_file,
        "tokens_path": tokens_file.removeprefix("tokens:"),
    }  # fmt: skip
    result = run_here(*(argument.replace("{2..8}", "").format(**names) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_submitted_job_refuses_a_relative_out(
    run_here: Run, llama_suite: Path, tokens_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    result = run_here("audit", llama_suite, "--corpus", tokens_file, "--out", "outputs/here", *MEASURE)
    assert result.exit_code == 2
    assert "temporary copy" in result.stderr


def test_token_ids_outside_the_vocabulary_are_refused_before_any_work(
    run_here: Run, llama_suite: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "t.npy", np.full(4096, VOCAB))
    result = run_here(
        "audit", llama_suite, "--corpus", f"tokens:{tmp_path}/t.npy", "--out", tmp_path / "out", *MEASURE
    )
    assert result.exit_code == 2
    assert str(VOCAB) in result.stderr
    assert not (tmp_path / "out").exists()
