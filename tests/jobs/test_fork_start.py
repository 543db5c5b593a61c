"""Where a fork starts, what it is refused for, and how far its unfinished runs are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import pipeline.runs.execute
import pipeline.runs.fork_progress
from jobs.cli import main
from pipeline.base.errors import UsageError
from pipeline.driver import Layout
from pipeline.runs.folder import RunFolder
from pipeline.runs.shard_schema import FORK
from pipeline.runs.task_values import ForkTask
from pipeline.suites import open_suite
from pipeline.train.start import AuditedPhases, automatic_start
from tests.jobs.test_fork import ARMS, SIZE, suite

__all__ = ["suite"]  # fixture


def test_unfinished_runs_say_how_far_they_are(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "out", []

    def drive(tasks: Sequence[ForkTask], *_: object, on_tick: Callable[[], None], **__: object) -> None:
        for made in (10, 20):
            RunFolder(out, FORK).states.write(tasks[0].key, made, b"a state")
            on_tick()
            on_tick()
        said.extend(CliRunner().invoke(main, ["status", str(out), *json]).output for json in ([], ["--json"]))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.runs.fork_progress, "LOOK_EVERY_S", 0.0)
    crew = SimpleNamespace(layout=Layout("cpu", 1, 1, 0), drive=drive)
    monkeypatch.setattr(pipeline.runs.execute, "running_workers", lambda *_, **__: nullcontext(crew))
    command = ["fork", str(suite), "--from", "20", "--out", str(out), *ARMS, *SIZE]
    assert CliRunner().invoke(main, command).exit_code == 130
    text, state = said
    assert "  cosine-seed0: 20 of 40 updates" in text
    assert json.loads(state)["updates_made"] == {"cosine-seed0": 20}
    advanced = [each.line for each in RunFolder(out).read_events() or [] if each.event == "advanced"]
    assert [(each["key"], each["updates"], each["of"]) for each in advanced] == [
        ("cosine-seed0", 10, 40),
        ("cosine-seed0", 20, 40),
    ]


def test_of_two_states_of_a_run_the_further_counts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, FORK)
    for key, made in (("oli-seed1", 5), ("oli-seed1", 10), ("oli-seed10", 7)):
        folder.states.write(key, made, f"{key} {made}".encode())
    assert len(list(tmp_path.glob("state/fork/*"))) == 2, "a state replaces the one before"
    (tmp_path / "state/fork/oli-seed1-step9.pt").write_bytes(b"what a killed writer left")
    assert folder.states.updates_made() == {"oli-seed1": 10, "oli-seed10": 7}
    assert folder.states.read("oli-seed1") == b"oli-seed1 10"
    folder.states.remove("oli-seed1")
    assert folder.states.updates_made() == {"oli-seed10": 7}
    assert folder.states.read("oli-seed1") is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--from", "23"], r"no step 23: the nearest are 16, 20, 25"),
        (["--from", "soon"], r"--from soon: wanted a step number, or auto"),
        (
            ["--from", "auto"],
            r"--from auto needs an audit of micro, and .* holds none: run `int4-collapse run",
        ),
        (["--from", "1"], r"learning rate at step1 is 0"),
        (["--schedules", "cosine,sgdr:period=50"], r"period of 50 steps is longer than the run of 40"),
        (["--schedules", "oli:period=7"], r"no probe falls into a settled cool phase"),
        (["--schedules", "cosin"], r"did you mean 'cosine'"),
        (
            ["--steps", "4000"],
            r"4,000 steps of 128 tokens are [\d.]+ epochs of the [\d,]+ training tokens: .*--allow-epochs",
        ),
        (["--tokens-per-step", "100"], r"wanted a multiple of the 32 tokens"),
        (["--probe-every", "41"], r"a probe every 41 steps in a run of 40"),
        (["--seeds", "0"], r"--seeds 0"),
        (["--probe-every", "0"], r"--probe-every 0: wanted at least 1"),
        (["--tokens-per-step", "0"], r"--tokens-per-step 0: wanted at least 1"),
        (["--rewarm-steps", "-1"], r"--rewarm-steps -1: wanted at least 0"),
        (["--state-every", "0"], r"--state-every 0: wanted at least 1"),
        (["--learning-rate", "-1"], r"--learning-rate -1: wanted a number above 0"),
        (["--steps", "-1", "--schedules", "sgdr"], r"--steps -1: wanted at least 2"),
        (["--precision", "fp8"], r"wanted auto, fp32 or bf16"),
        (["--train-corpus", "tokens:none.npy"], r"there is no such file"),
        (["--audit", "nowhere", "--from", "auto"], r"nowhere holds none"),
    ],
)
def test_requests_that_cannot_be_carried_out_stop_before_any_work(
    suite: Path, tmp_path: Path, options: list[str], complaint: str
) -> None:
    default = {"--from": "20", "--schedules": "cosine", **dict(zip(SIZE[::2], SIZE[1::2], strict=True))}
    given = {**default, **dict(zip(options[::2], options[1::2], strict=True))}
    words = [word for pair in given.items() for word in pair]
    result = CliRunner().invoke(main, ["fork", str(suite), "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2, result.output
    assert re.search(complaint, " ".join(result.stderr.split())), result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("report", "step", "rule"),
    [
        ({"onset_step": 17, "convergence_step": 5}, 16, "before the onset that the audit found at step 17"),
        ({"onset_step": 16, "convergence_step": 5}, 15, "before the onset that the audit found at step 16"),
        ({"onset_step": None, "convergence_step": 22}, 20, "where full precision converges (step 22)"),
        ({"onset_step": None, "convergence_step": None}, 15, "starts half-way (step 15 or before)"),
    ],
)
def test_auto_is_the_last_checkpoint_before_the_onset(
    suite: Path, report: dict[str, int | None], step: int, rule: str
) -> None:
    found = automatic_start(open_suite(str(suite)), AuditedPhases("micro", **report))
    assert found.checkpoint.step == step
    assert rule in found.rule


def test_the_audit_of_another_suite_is_refused(suite: Path) -> None:
    with pytest.raises(UsageError, match="of suite tiny, not of micro"):
        automatic_start(open_suite(str(suite)), AuditedPhases("tiny", onset_step=3))
