"""One run of a fork experiment: what moves, what must not, and where a killed run continues."""

import dataclasses
import io
import itertools
import math
import shutil

import numpy as np
import pytest
import torch

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.kinds.fork_work import ForkWork
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.probe import Prober
from pipeline.runs import fork_run
from pipeline.runs.folder import RunFolder
from pipeline.runs.fork_run import ForkRun
from pipeline.runs.shard_schema import FORK
from pipeline.runs.tasks import run_fork
from pipeline.runs.warm_state import WarmState
from pipeline.suites import fetch
from pipeline.train import pretrain
from pipeline.train.arms import parse_arms, resolve
from pipeline.train.model import save_model
from tests.forks import RATES, fork_task, rows


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
