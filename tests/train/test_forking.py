"""One run of a fork experiment: what moves, what must not, and where a killed run continues."""

import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import CheckpointError, OutputError, UsageError
from pipeline.kinds.fork_work import ForkWork
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.probe import Prober
from pipeline.runs import fork_run
from pipeline.runs.folder import RunFolder
from pipeline.runs.fork_run import ForkRun
from pipeline.runs.shard_schema import FORK
from pipeline.runs.state_files import StateFiles
from pipeline.runs.tasks import run_fork
from pipeline.runs.warm_state import WarmState
from pipeline.suites import fetch
from pipeline.train import pretrain
from pipeline.train.arms import parse_arms, resolve
from pipeline.train.model import save_model
from tests.forked import Forked
from tests.forks import RATES, fork_task, rows

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


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower on two threads, and a child of the tests uses one as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def suite(micro, tmp_path_factory):
    """The micro suite, which keeps the optimizer of step 20."""
    folder = tmp_path_factory.mktemp("suite") / "micro"
    pretrain(micro, folder, device="cpu", keep_optimizer_at=[20])
    return folder


@pytest.fixture(scope="module")
def whole(suite, tmp_path_factory):
    """An uninterrupted cosine run."""
    task = fork_task(suite, tmp_path_factory.mktemp("whole") / "out")
    run_fork(task)
    return task


def test_a_shard_has_a_row_for_every_probe_variant_and_set_of_weights(whole):
    table = rows(whole)
    assert len(table) == 5 * 3 * 3
    assert {row["step"] for row in table} == {0, 3, 6, 9, 12}
    assert {row["weights"] for row in table} == {"live", "ema", "lawa"}
    assert {row["status"] for row in table} == {"ok"}
    last = table[-1]
    assert last["tokens"] == 12 * 4 * 32
    assert last["learning_rate"] == pytest.approx(2e-4 + 9e-4 * (1 + math.cos(math.pi * 11 / 12)))
    assert [row["phase_label"] for row in table[::9]] == ["start", "decay", "decay", "decay", "decay"]
    assert table[0]["train_loss_nats"] is None
    assert 0 < last["train_loss_nats"] < math.log(300)
    for row in table:
        assert (row["variant"] == "fp32") <= (row["gap"] == 0)


def test_the_start_is_the_suites_own_checkpoint(whole, suite):
    checkpoint = whole.checkpoint
    prober = Prober(whole.spec.probe, RunFolder(whole.out, FORK).tokens.read())
    audited = {each.variant: each for each in prober.measure(fetch(checkpoint)).results}
    for row in rows(whole)[:9]:
        expected = audited[row["variant"]]
        assert row["nll_nats"] == expected.nll_nats
        assert row["batch_nll_nats"] == list(expected.batch_nll_nats)
        assert row["kl_nats_p99"] == expected.kl_nats_p99


def weights_of(run: ForkRun) -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(run.state()), weights_only=True)["trainer"]["model"]


def test_a_probe_of_the_run_is_a_probe_of_the_checkpoint_saved_from_it(whole, suite, tmp_path):
    folder, at = RunFolder(whole.out, FORK), fetch(whole.checkpoint)
    prober = Prober(whole.spec.probe, folder.tokens.read())
    run = ForkRun(whole, at, folder.training_tokens.read(), prober)
    run.start()
    kept = [weights_of(run)]
    while not run.done:
        run.advance()
        kept.append(weights_of(run))
    # the averages, by hand: decay 0.75 from the start, and the mean over the last three probes
    ema = {name: value.double() for name, value in kept[0].items()}
    for weights in kept[1:]:
        ema = {name: 0.75 * old + 0.25 * weights[name].double() for name, old in ema.items()}
    lawa = {name: torch.stack([kept[step][name] for step in (6, 9, 12)]).double().mean(0) for name in ema}
    model = build_model(read_config(at), read_weights(at))
    for which, weights, tolerance in (("live", kept[-1], 0.0), ("ema", ema, 2e-4), ("lawa", lawa, 2e-4)):
        model.load_state_dict({name: value.float() for name, value in weights.items()})
        save_model(model, tmp_path / which)
        saved = [each.nll_nats for each in prober.measure(tmp_path / which).results]
        probed = [row["nll_nats"] for row in run.rows if (row["step"], row["weights"]) == (12, which)]
        assert probed == pytest.approx(saved, abs=tolerance, rel=0.0)
        losses = [row["nll_nats"] for row in run.rows if (row["step"], row["variant"]) == (12, "fp32")]
        assert min(abs(one - other) for one, other in itertools.combinations(losses, 2)) > 1e-3, (
            "three that differ"
        )


@pytest.mark.parametrize("optimizer", ["adamw", "sam", "muon"])
def test_noop_moves_no_number(suite, tmp_path, optimizer):
    arm = dataclasses.replace(resolve(parse_arms("noop")[0], RATES), optimizer=optimizer)
    task = fork_task(suite, tmp_path / "out", made_arm=arm)
    run_fork(task)
    table = rows(task)
    moving = {"step", "tokens", "learning_rate", "phase_label", "train_loss_nats", "weights"}
    still = [{name: value for name, value in row.items() if name not in moving} for row in table]
    assert len(table) == 45
    assert all(row == still[index % 3] for index, row in enumerate(still))


def test_seeds_see_other_text_and_the_same_seed_the_same(whole, suite, tmp_path):
    again, other = (fork_task(suite, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    for task in (again, other):
        run_fork(task)
    assert rows(again) == rows(whole)
    assert rows(other)[:9][0]["nll_nats"] == rows(whole)[0]["nll_nats"]
    assert rows(other)[-1]["nll_nats"] != rows(whole)[-1]["nll_nats"]


def test_runs_of_one_worker_measure_their_start_once_and_nothing_else_changes(whole, suite, tmp_path):
    warm = WarmState()
    tasks = [fork_task(suite, tmp_path / "out", seed=seed) for seed in (0, 1)]
    alone = fork_task(suite, tmp_path / "alone", seed=1)
    for task in tasks:
        ForkWork().run(task, warm)
    run_fork(alone)
    first, second = (rows(task, timeless=False) for task in tasks)
    taken = [[row["probe_s"] for row in each[::9]] for each in (first, second)]
    assert [one == other for one, other in zip(*taken, strict=True)] == [True, False, False, False, False]
    assert rows(tasks[0]) == rows(whole)
    assert rows(tasks[1]) == rows(alone)


def test_another_start_or_another_probe_is_measured(suite, tmp_path):
    warm, folder = WarmState(), tmp_path / "start"
    first = fork_task(suite, tmp_path / "out")
    shutil.copytree(first.checkpoint.location, folder)
    here = dataclasses.replace(first.checkpoint, location=str(folder), weights_sha256=None)
    few = dataclasses.replace(first.spec.probe, variants=first.spec.probe.variants[:2])
    tasks = [
        dataclasses.replace(first, checkpoint=here),
        fork_task(suite, tmp_path / "step25", step=25),
        fork_task(suite, tmp_path / "few", probe=few),
    ]
    for task in tasks:
        ForkWork().run(task, warm)
        together = rows(task)
        run_fork(task)
        assert together == rows(task)
    shutil.copy(suite / "step25" / "model.safetensors", folder)  # under the content id that the plan has
    ForkWork().run(tasks[0], warm)
    assert rows(tasks[0])[0]["nll_nats"] == rows(tasks[1])[0]["nll_nats"]


@pytest.mark.parametrize("optimizer", ["sam", "muon"])
def test_other_optimizers_train_too_and_otherwise(whole, suite, tmp_path, optimizer):
    arm = dataclasses.replace(whole.arm, optimizer=optimizer)
    task = fork_task(suite, tmp_path / "out", made_arm=arm)
    run_fork(task)
    ours, theirs = rows(task), rows(whole)
    assert all(row["nll_nats"] is not None for row in ours)
    assert ours[-9]["nll_nats"] != theirs[-9]["nll_nats"]
    assert ours[-9]["nll_nats"] == pytest.approx(theirs[-9]["nll_nats"], abs=0.3)


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


@pytest.mark.parametrize("rate", [1e30, 1e3])
def test_a_run_that_diverges_keeps_its_rows(suite, tmp_path, rate):
    task = fork_task(suite, tmp_path / "out", rates=dataclasses.replace(RATES, base_lr=rate))
    run_fork(task)
    table = rows(task)
    assert {row["status"] for row in table} == {"diverged"}
    assert all(row["nll_nats"] is not None for row in table[:9])
    broken = [row for row in table[9:] if row["weights"] == "live"]
    assert broken[-1]["nll_nats"] is None
    assert broken[-1]["step"] < 12 or rate == 1e3


def test_a_start_that_is_replaced_while_it_is_read_fails_by_name(suite, tmp_path, monkeypatch):
    task, folder = fork_task(suite, tmp_path / "out"), tmp_path / "start"
    shutil.copytree(task.checkpoint.location, folder)
    moved = dataclasses.replace(task.checkpoint, location=str(folder))

    def read_and_replaced(*arguments):
        stored = read_weights(*arguments)
        shutil.copy(suite / "step25" / "model.safetensors", tmp_path / "new")
        (tmp_path / "new").rename(folder / "model.safetensors")
        return stored

    monkeypatch.setattr(fork_run, "read_weights", read_and_replaced)
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed while it was being read"):
        run_fork(dataclasses.replace(task, checkpoint=moved))


def test_moments_of_the_suite_are_the_ones_it_stopped_with(suite, tmp_path):
    task = fork_task(suite, tmp_path / "out", moments="suite")
    folder = RunFolder(task.out, FORK)
    prober = Prober(task.spec.probe, folder.tokens.read())
    run = ForkRun(task, fetch(task.checkpoint), folder.training_tokens.read(), prober)
    stored = torch.load(suite / "step20" / "moments.pt", weights_only=True)
    states = torch.load(io.BytesIO(run.state()), weights_only=True)["trainer"]["optimizer"]["state"].values()
    assert len(states) == len(stored)
    assert {int(each["step"]) for each in states} == {20}
    for kept in stored.values():
        assert any(torch.equal(each["exp_avg_sq"], kept["exp_avg_sq"]) for each in states)
    run_fork(task)
    assert rows(task)[-1]["nll_nats"] is not None
    (suite / "step25" / "moments.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"moments\.pt cannot be read"):
        run_fork(fork_task(suite, tmp_path / "other", step=25, moments="suite"))
    (suite / "step25" / "moments.pt").unlink()


def test_moments_can_be_kept_at_checkpoints_alone_and_not_afterwards(micro, suite, tmp_path):
    with pytest.raises(
        UsageError, match="step 23: the nearest checkpoints of micro that have one are 16, 20, 25"
    ):
        pretrain(micro, tmp_path / "new", device="cpu", keep_optimizer_at=[23])
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="passed step 10 without saving its optimizer state"):
        pretrain(micro, suite, device="cpu", keep_optimizer_at=[10, 20])


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


def test_dropout_is_drawn_from_the_seed_and_the_step(tmp_path, suite):
    """A GPT-2 whose dropout is on: a run that continues draws what the whole run drew."""
    from tests.models import save_tiny_model

    folder = save_tiny_model("gpt2", tmp_path / "step1", resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2)
    task = fork_task(suite, tmp_path / "out")
    checkpoint = dataclasses.replace(task.checkpoint, location=str(folder), weights_sha256=None)
    task = dataclasses.replace(task, checkpoint=checkpoint)
    output = RunFolder(task.out, FORK)
    tokens, prober = output.training_tokens.read(), Prober(task.spec.probe, output.tokens.read())
    first = ForkRun(task, folder, tokens, prober)
    first.start()
    for _ in range(4):
        first.advance()
    state = first.state()
    np.random.default_rng().random()
    torch.rand(7)
    second = ForkRun(task, folder, tokens, prober)
    assert second.resume(state)
    for run in (first, second):
        while not run.done:
            run.advance()
    assert [row["nll_nats"] for row in first.rows] == [row["nll_nats"] for row in second.rows]
