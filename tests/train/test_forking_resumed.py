"""A run of a fork experiment that was ended continues where its saved state is, or begins again."""

import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from pipeline.base.errors import OutputError
from pipeline.probe import Prober
from pipeline.runs.folder import RunFolder
from pipeline.runs.fork_run import ForkRun
from pipeline.runs.shard_schema import FORK
from pipeline.runs.state_files import StateFiles
from pipeline.runs.tasks import run_fork
from pipeline.suites import fetch
from tests.forked import Forked
from tests.forks import fork_task, rows
from tests.train.test_forking import one_thread, suite, whole

__all__ = ["one_thread", "suite", "whole"]  # fixtures


KILLED = (("SIGKILL", 8), ("SIGTERM", 7))


def train_until_killed(task, name, at):
    """Carries out ``task``; ends by the signal ``name`` after the update ``at``."""
    advance = ForkRun.advance

    def stopped(run):
        advance(run)
        if run.step == at:
            os.kill(os.getpid(), getattr(signal, name))

    ForkRun.advance = stopped
    run_fork(task)


@pytest.fixture(scope="module")
def killed(whole, suite, tmp_path_factory):
    """Runs that a signal ended after an update, by its name; each was to be the one that nothing happened to."""
    tasks = {}
    for name, at in KILLED:
        out = tmp_path_factory.mktemp(name) / "out"
        tasks[name] = fork_task(suite, out, made_arm=whole.arm, state_every=5)
        with Forked(train_until_killed, tasks[name], name, at) as child:
            assert child.wait() == -getattr(signal, name), child.said("err")
    return tasks


@pytest.mark.parametrize(("name", "made"), [("SIGKILL", 5), ("SIGTERM", 7)])
def test_a_killed_run_continues_and_ends_bit_equal(whole, killed, name, made):
    task = killed[name]  # SIGTERM saves, SIGKILL leaves the last
    (state,) = (Path(task.out) / "state" / "fork").iterdir()
    assert torch.load(state, weights_only=True)["trainer"]["step"] == made
    assert RunFolder(task.out, FORK).states.updates_made() == {"cosine-seed0": made}
    done = run_fork(task)
    assert done.notes == ("continued from its saved state",)
    assert rows(task) == rows(whole)
    assert not state.exists()


def test_states_are_no_closer_than_they_may_be(suite, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(StateFiles, "write", lambda states, key, updates, data: kept.append(updates))
    for seconds, expected in ((0.0, [5, 10]), (3600.0, [])):
        kept.clear()
        run_fork(fork_task(suite, tmp_path / str(seconds), state_every=5, state_after_s=seconds))
        assert kept == expected


@pytest.mark.parametrize("damage", ["truncated", "other"])
def test_a_state_that_cannot_be_used_is_left(whole, suite, tmp_path, damage):
    task = fork_task(suite, tmp_path / "out")
    folder = RunFolder(task.out, FORK)
    other = fork_task(suite, tmp_path / "out", seed=4)
    run = ForkRun(
        other,
        fetch(other.checkpoint),
        folder.training_tokens.read(),
        Prober(task.spec.probe, folder.tokens.read()),
    )
    run.start()
    run.advance()
    folder.states.write(task.key, run.step, run.state() if damage == "other" else run.state()[:999])
    assert run_fork(task).notes == ("its saved state is unusable: started over",)
    assert rows(task) == rows(whole)


def test_a_state_of_an_earlier_release_is_continued(whole, suite, tmp_path):
    task = fork_task(suite, tmp_path / "out")
    folder = RunFolder(task.out, FORK)
    prober = Prober(task.spec.probe, folder.tokens.read())
    run = ForkRun(task, fetch(task.checkpoint), folder.training_tokens.read(), prober)
    run.start()
    run.advance()
    state = torch.load(io.BytesIO(run.state()), weights_only=True)
    config = json.loads(state["config"])
    del config["probe"]["calibration_sha256"]  # a setting that it did not have
    buffer = io.BytesIO()
    torch.save({**state, "config": json.dumps(config)}, buffer)
    folder.states.write(task.key, run.step, buffer.getvalue())
    assert run_fork(task).notes == ("continued from its saved state",)
    assert rows(task) == rows(whole)


def test_a_full_disk_stops_the_run_by_name_and_the_state_before_stays(whole, suite, tmp_path, monkeypatch):
    task = fork_task(suite, tmp_path / "out", state_every=2)
    write, fsync = StateFiles.write, os.fsync

    def second_fails(states, key, updates, data):
        if states.read(key) is not None:
            monkeypatch.setattr(os, "fsync", full)
        write(states, key, updates, data)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateFiles, "write", second_fails)
    with pytest.raises(OutputError, match="No space left on device"):
        run_fork(task)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(StateFiles, "write", write)
    assert run_fork(task).notes == ("continued from its saved state",)
    assert rows(task) == rows(whole)
