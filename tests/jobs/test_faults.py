"""Real processes killed in the middle: nothing measured is lost, and the numbers come out the same, bit for bit."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.base import retry
from pipeline.base.errors import OutputError
from pipeline.driver import MAX_ATTEMPTS, Layout, TaskOutcome
from tests.jobs.conftest import command_here, start, trajectory
from tests.jobs.disks import fill, small_disk
from tests.models import save_tiny_suite
from tests.run_files import events_in
from tests.waiting import wait_for
from tests.workers import DyingSkewedWorker, FullWorker, HeldWorker, PoisonWorker, drive, simulated_tasks

Run = Callable[..., Result]
SIZE = ("--batches", "4", "--batch-size", "8", "--seq-len", "64", "--workers", "1")
N_CHECKPOINTS = 6


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "suite"
    return save_tiny_suite("gpt_neox", folder, [f"step{n}" for n in range(N_CHECKPOINTS)])


@pytest.fixture(scope="module")
def undisturbed(suite: Path, tokens_file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing happened to, whose worker was this process."""
    out = tmp_path_factory.mktemp("undisturbed")
    for arguments in (["audit", suite, "--corpus", tokens_file, "--out", out, *SIZE], ["reduce", out]):
        assert command_here(*arguments).exit_code == 0
    return out


def shards(out: Path) -> list[Path]:
    return sorted((out / "shards" / "audit").glob("*.arrow"))


@pytest.mark.slow
def test_interrupted_and_resumed_equals_undisturbed(
    run_here: Run, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *SIZE)
    with start(*audit, worker=HeldWorker) as first:
        wait_for(lambda: len(shards(out)) == 2, first)
        refused = run_here(*audit)
        assert refused.exit_code == 2
        assert f"in use by process {first.pid} on" in refused.stderr
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "the same command resumes" in said
    kept = {path.name: path.read_bytes() for path in shards(out)}
    assert len(kept) == 2
    resumed = run_here(*audit)
    assert resumed.exit_code == 0, resumed.output
    for name, content in kept.items():
        assert (out / "shards" / "audit" / name).read_bytes() == content, "a finished shard was touched"
    assert not list(out.rglob(".*.tmp"))
    assert run_here("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))


def test_a_killed_worker_and_clocks_that_are_wrong_cost_nothing_but_time(
    run: Run,
    run_here: Run,
    suite: Path,
    tokens_file: str,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("pipeline.runs.execute.TaskWorker", DyingSkewedWorker)
    audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *SIZE)
    result = run(*audit)
    assert result.exit_code == 0, result.output
    assert (out / "killed").exists()
    assert f"{N_CHECKPOINTS} measured" in result.stdout
    assert f"{N_CHECKPOINTS} existed already" in run_here(*audit).stdout
    assert run_here("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))


@pytest.mark.parametrize(
    "layout", [Layout("cpu", 2, 1, 0), Layout("cuda", 1, 1, 0)], ids=["one each", "others queued"]
)
def test_a_checkpoint_that_kills_every_worker_fails_alone(ray_cluster: None, layout: Layout) -> None:
    outcomes: list[TaskOutcome] = []
    drive(simulated_tasks(6), layout, outcomes.append, PoisonWorker)
    assert sorted(outcome.key[-1] for outcome in outcomes) == list("012345"), (
        "each once, none lost, none twice"
    )
    (failed,) = [outcome for outcome in outcomes if outcome.failure]
    assert failed.key.endswith("3")
    assert failed.deaths == MAX_ATTEMPTS
    assert f"died {MAX_ATTEMPTS} times" in str(failed.failure)


def patience(seconds: float) -> retry.RetryPolicy:
    """How long a folder that is away is waited for."""
    return retry.RetryPolicy(tries=None, for_s=seconds, first_s=0.05, most_s=0.05)


def test_a_vanished_output_folder_stops_the_run_with_its_path(
    run_here: Run, suite: Path, tokens_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(retry, "AWAY", patience(0.5))

    def vanish(done: int) -> None:
        if done == 1:
            shutil.move(out / "shards", tmp_path / "gone")

    result = run_here("audit", suite, "--corpus", tokens_file, "--out", out, *SIZE, after_task=vanish)
    assert result.exit_code == 1
    assert re.search(r"cannot write .*out/shards/audit/step\d+\.arrow", result.stderr), result.stderr
    assert "Traceback" not in result.stderr


def test_an_output_folder_that_is_away_for_a_second_costs_nothing_but_time(
    run_here: Run, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, away = tmp_path / "out", tmp_path / "away"
    monkeypatch.setattr(retry, "AWAY", patience(120))
    back = threading.Timer(1.0, lambda: away.rename(out))

    def vanish(done: int) -> None:
        if done == 3:
            out.rename(away)
            back.start()

    result = run_here("audit", suite, "--corpus", tokens_file, "--out", out, *SIZE, after_task=vanish)
    back.join()
    assert result.exit_code == 0, result.output
    assert run_here("reduce", out).exit_code == 0
    assert trajectory(out).equals(trajectory(undisturbed))
    kinds = [event["event"] for event in events_in(out)]
    assert kinds.count("done") == N_CHECKPOINTS
    assert (kinds[0], kinds[-1]) == ("started", "finished")


def test_a_worker_that_cannot_write_stops_the_run_with_its_reason(ray_cluster: None) -> None:
    outcomes: list[TaskOutcome] = []
    with pytest.raises(OutputError, match="cannot write x: the disk is full"):
        drive(simulated_tasks(6), Layout("cpu", 1, 1, 0, limit=1), outcomes.append, FullWorker)
    assert [outcome.key[-1] for outcome in outcomes] == ["0", "1", "2"]


def test_a_full_disk_stops_the_run_and_what_is_there_stays_valid(
    run_here: Run, suite: Path, tokens_file: str, undisturbed: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path, "512k") as disk:
        out, filler = disk / "out", disk / "filler"
        audit = ("audit", suite, "--corpus", tokens_file, "--out", out, *SIZE)
        full = run_here(*audit, after_task=lambda done: fill(filler) if done == 2 else None)
        assert full.exit_code == 1
        assert "No space left on device" in full.stderr
        assert str(out) in full.stderr
        assert len(shards(out)) == 2
        filler.unlink()
        resumed = run_here(*audit)
        assert resumed.exit_code == 0, resumed.output
        assert "2 existed already" in resumed.stdout
        assert run_here("reduce", out).exit_code == 0
        assert trajectory(out).equals(trajectory(undisturbed))
