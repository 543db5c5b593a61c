"""The audit of local folders again: what is stale, damaged, asked for in parts, or known only later."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.jobs.conftest import MEASURE, trajectory
from tests.models import save_tiny_model, save_tiny_suite

Run = Callable[..., Result]


def test_another_measurement_in_the_same_folder_is_refused_until_replaced(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
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
    assert run_here(*audit).exit_code == 0
    other = (*audit, "--variant", "int3-g32-sym", "--batches", "2")
    refused = run_here(*other)
    assert refused.exit_code == 2
    for part in ("shape.batches: 4 -> 2", "--out", "--replace-stale"):
        assert part in refused.stderr
    assert run_here(*audit).exit_code == 0, "the refused request must leave the folder as it was"
    replaced = run_here(*other, "--replace-stale")
    assert replaced.exit_code == 0, replaced.output
    assert run_here("reduce", tmp_path / "out", "--allow-missing").exit_code == 0
    assert "int3_g32_sym_gap" in trajectory(tmp_path / "out").columns

    save_tiny_model("llama", llama_suite / "step10", seed=99)
    refused = run_here(*other)
    assert refused.exit_code == 2, "other weights under an old name must not pass for measured"
    assert "step000000010" in refused.stderr
    assert "weights:" in refused.stderr


def test_damaged_shards_are_measured_again_and_said_so(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    audit = (
        "audit",
        llama_suite,
        "--corpus",
        tokens_file,
        "--out",
        tmp_path / "out",
        "--limit",
        "4",
        *MEASURE,
    )
    assert run_here(*audit).exit_code == 0
    run_here("reduce", tmp_path / "out")
    before = trajectory(tmp_path / "out")
    shards = sorted((tmp_path / "out" / "shards" / "audit").iterdir())
    whole = shards[0].read_bytes()
    shards[0].write_bytes(whole[:-100])
    shards[1].write_bytes(b"")
    flipped = bytearray(shards[2].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    shards[2].write_bytes(flipped)
    assert run_here("reduce", tmp_path / "out").exit_code == 1, "a damaged shard must never be reduced"
    again = run_here(*audit)
    assert again.exit_code == 0
    assert "3 measured, 1 existed already" in again.stdout
    for shard in shards[:3]:
        assert re.search(f"redone: .*{shard.name}", again.stderr)
    assert run_here("reduce", tmp_path / "out").exit_code == 0
    assert trajectory(tmp_path / "out").equals(before)


def test_a_first_look_and_the_whole_run_share_a_folder(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE)
    assert run_here(*audit, "--limit", "2").exit_code == 0
    assert "4 measured, 2 existed already" in run_here(*audit).stdout
    nothing_to_do = run_here(*audit, "--steps", "30")
    assert nothing_to_do.exit_code == 0
    assert "0 measured" in nothing_to_do.stdout
    assert run_here("reduce", tmp_path / "out").exit_code == 0
    assert trajectory(tmp_path / "out")["step"].to_list() == [0, 10, 20, 30, 40, 50]


def test_a_request_measures_what_it_asks_for_and_no_more(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    """Three copies, asked for piece by piece: each is settled once, and another run is not let in."""
    for copy in ("step10", "step20"):
        shutil.rmtree(llama_suite / copy)
        shutil.copytree(llama_suite / "step0", llama_suite / copy)
    out = tmp_path / "out"
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", out, *MEASURE)
    assert run_here(*audit, "--steps", "10,20").exit_code == 0
    shards = out / "shards" / "audit"
    for shard in shards.iterdir():
        shard.unlink()
    one = run_here(*audit, "--steps", "0,10")
    assert "2 measured" in one.stdout
    assert sorted(p.stem for p in shards.iterdir()) == ["step000000000", "step000000010"]
    status = json.loads(run_here("status", out, "--json").stdout)
    assert status["missing"] == ["step000000020"]
    assert status["duplicates"] == {"step000000010": "step000000000", "step000000020": "step000000000"}
    rest = run_here(*audit, "--steps", "20")
    assert "1 measured, 0 existed already" in rest.stdout

    stranger = save_tiny_suite("llama", tmp_path / "other" / "llama", ["step100", "step110"], hidden_size=16)
    refused = run_here("audit", stranger, "--corpus", tokens_file, "--out", out, *MEASURE)
    assert refused.exit_code == 2
    assert f"holds the run of {llama_suite}" in refused.stderr
    moved = llama_suite.rename(tmp_path / "moved")
    assert "0 measured, 3 existed already" in run_here("audit", moved, *audit[2:], "--limit", "3").stdout


def test_what_a_suite_says_later_is_seen_without_measuring_again(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", out, "--limit", "2", *MEASURE)
    assert run_here(*audit).exit_code == 0
    entries = [{"step": n, "revision": f"step{n}", "learning_rate": 0.1 / (n + 1)} for n in range(0, 60, 10)]
    (llama_suite / "suite.json").write_text(
        json.dumps({"name": "llama", "recipe": {}, "checkpoints": entries})
    )
    assert "0 measured, 2 existed already" in run_here(*audit).stdout
    (out / "failures" / "audit" / "step000000010.json").write_text("{")
    (out / "run.json").write_text("{")
    assert run_here("status", out).exit_code == 2
    assert run_here(*audit).exit_code == 0, "a damaged run.json is written anew"
    assert run_here("reduce", out).exit_code == 0
    table = trajectory(out)
    assert table["learning_rate"].to_list() == [0.1, 0.1 / 11]
    report = json.loads((out / "report.json").read_text())
    assert [report["int4_gap_first"], report["int4_gap_last"]] == pytest.approx(table["int4_gap"].to_list())
    assert report["int8_gap_max"] == pytest.approx(table["int8_gap"].max())
    assert report["onset_step"] is None
    (out / "report.json").write_text("{")
    assert run_here("report", out).exit_code == 2
