"""What Trainers leave beside checkpoints: rates are those of the checkpoint's own update, or marked, or unknown."""

import json
import math
import os
import pickle
import zipfile

import pytest
import torch

from pipeline.suites import open_suite


def rate_of_update(update, peak=1e-3, warmup=10, updates=60):
    """A cosine to zero after a warm-up: the rate of the ``update``-th update, counted from 1."""
    done = update - 1
    if done < warmup:
        return peak * done / warmup
    return peak / 2 * (1 + math.cos(math.pi * (done - warmup) / (updates - warmup)))


def save_scheduler(folder, updates):
    """What torch saves of a schedule like that after ``updates`` updates."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate_of_update(done + 1) / 1e-3)
    for _ in range(updates):
        optimizer.step()
        schedule.step()
    torch.save(schedule.state_dict(), folder / "scheduler.pt")


def checkpoint(suite, step, name="checkpoint-{}", every=25, scheduler=True, **state):
    """A checkpoint folder (without weights) of a Trainer that logs every ``every`` updates."""
    folder = suite / name.format(step)
    folder.mkdir(parents=True)
    history = [
        entry
        for logged in range(every, step + 1, every)
        for entry in (
            {"step": logged, "learning_rate": rate_of_update(logged), "loss": 2.0},
            {"step": logged, "eval_loss": 1.9, "grad_norm": math.nan},
        )
    ]
    value = {"global_step": step, "log_history": history, "num_input_tokens_seen": 64 * step} | state
    (folder / "trainer_state.json").write_text(json.dumps(value))
    if scheduler:
        save_scheduler(folder, step)
    return folder


def test_a_rate_is_the_one_logged_at_the_own_update_or_the_next_ones_and_says_so(tmp_path):
    for step in range(10, 61, 10):
        checkpoint(tmp_path, step)
    found = open_suite(str(tmp_path))
    by_step = {each.step: each.learning_rate for each in found.checkpoints}
    assert by_step[50] == pytest.approx(rate_of_update(50), rel=1e-12)
    for step in (10, 20, 30, 40, 60):
        assert by_step[step] == pytest.approx(rate_of_update(step + 1), rel=1e-9, abs=1e-12)
    assert [each.tokens_seen for each in found.checkpoints] == [64 * step for step in by_step]
    (warning,) = found.warnings
    assert warning.startswith("checkpoint-10, checkpoint-20, checkpoint-30 and 2 more: ")
    assert "the update after it" in warning


def test_without_a_scheduler_a_stale_rate_is_none(tmp_path):
    for step in (20, 40, 50, 60):
        checkpoint(tmp_path, step, scheduler=False)
    found = open_suite(str(tmp_path))
    assert [each.learning_rate for each in found.checkpoints] == [None, None, rate_of_update(50), None]
    assert found.warnings == ()


@pytest.mark.parametrize(("name", "number"), [("{}B-tokens", 10), ("epoch-{}", 3)])
def test_the_update_is_the_states_own_not_the_folders_number(tmp_path, name, number):
    checkpoint(tmp_path, 50, every=1, scheduler=False).rename(tmp_path / name.format(number))
    pattern = name.format(r"(?P<step>\d+)")
    (found,) = open_suite(str(tmp_path), pattern).checkpoints
    assert (found.step, found.learning_rate) == (number, rate_of_update(50))


def test_a_scheduler_alone_is_enough(tmp_path):
    (tmp_path / "checkpoint-30").mkdir()
    save_scheduler(tmp_path / "checkpoint-30", 30)
    (found,) = open_suite(str(tmp_path)).checkpoints
    assert found.learning_rate == pytest.approx(rate_of_update(31), rel=1e-12)


@pytest.mark.parametrize(
    "state",
    [
        "{not json",
        "[]",
        '{"log_history": 5}',
        '{"global_step": "1", "log_history": []}',
        '{"global_step": 1e300, "log_history": []}',
        '{"log_history": {"step": 1}, "num_input_tokens_seen": NaN}',
        '{"log_history": [], "num_input_tokens_seen": Infinity}',
        '{"log_history": [{"step": NaN, "learning_rate": 1}], "num_input_tokens_seen": 1e400}',
        "[" * 200_000,
        '{"log_history": ' * 100 + "[]" + "}" * 100,
        '{"best_model_checkpoint": "\\ud800"}',
    ],
)
def test_a_state_that_is_broken_is_said_and_says_nothing(state, tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text(state)
    suite = open_suite(str(tmp_path))
    assert (suite.checkpoints[0].learning_rate, suite.checkpoints[0].tokens_seen) == (None, None)
    assert [each.partition(": ")[0] for each in suite.warnings] == ["checkpoint-1"]
    suite.warnings[0].encode()


def test_odd_entries_of_a_log_are_none(tmp_path):
    odd = [
        3,
        None,
        {"step": 1},
        *({"step": 1, "learning_rate": rate} for rate in ("1", True, math.nan, -1, 10**400)),
    ]
    checkpoint(tmp_path, 1, scheduler=False, log_history=odd)
    (found,) = open_suite(str(tmp_path)).checkpoints
    assert found.learning_rate is None


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("kind", ["a class", "no rate", "a bomb", "garbage", "a named pipe", "a device"])
def test_a_scheduler_that_cannot_be_used_is_said(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path, 40, scheduler=False) / "scheduler.pt"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "garbage":
        path.write_bytes(b"x" * 999)
    else:
        content = {
            "a class": pickle.dumps({"_last_lr": Attack()}),
            "no rate": pickle.dumps({"_last_lr": [math.nan]}),
            "a bomb": bytes(2**28),
        }[kind]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("scheduler/data.pkl", content)
    suite = open_suite(str(tmp_path))
    assert (suite.checkpoints[0].learning_rate, suite.checkpoints[0].tokens_seen) == (None, 64 * 40)
    assert suite.warnings[0].startswith("checkpoint-40: scheduler.pt: ")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "bytes, wanted at most"])
def test_a_state_that_is_no_small_regular_file_is_not_waited_for(tmp_path, kind):
    (tmp_path / "checkpoint-1").mkdir()
    path = tmp_path / "checkpoint-1" / "trainer_state.json"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 30 * 2**30)
    suite = open_suite(str(tmp_path))
    assert kind in suite.warnings[0]
