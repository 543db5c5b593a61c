import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.base.errors import CheckpointError, FolderLockedError, UsageError
from pipeline.base.locks import exclusive
from pipeline.corpus import evaluation_tokens, parse_corpus
from pipeline.suites import (
    Manifest,
    fetch,
    load_tokenizer,
    open_suite,
    weights_sha256,
    write_manifest,
)
from pipeline.train import RECIPES, find_recipe, pretrain
from pipeline.train.branching import agree
from tests.forked import Forked


def train_until_killed(recipe, folder, kill_at):
    def killed(done, *_):
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    pretrain(recipe, folder, device="cpu", state_every=7, on_progress=killed)


def weights(folder):
    return {path.parent.name: weights_sha256(path.parent) for path in folder.glob("step*/config.json")}


@pytest.fixture(scope="module")
def trained(micro, tmp_path_factory):
    """The micro suite, trained in one go."""
    folder = tmp_path_factory.mktemp("trained") / "micro"
    pretrain(micro, folder, device="cpu")
    return folder


def test_the_suite_is_ordinary_folders_and_a_manifest(micro, trained):
    suite = open_suite(str(trained))
    assert tuple(checkpoint.step for checkpoint in suite.checkpoints) == micro.checkpoint_steps
    assert {path.name for path in trained.iterdir()} == {
        "suite.json",
        "eval_tokens.npy",
        ".lock",
        *(f"step{step}" for step in micro.checkpoint_steps),
    }
    last = suite.checkpoints[-1]
    assert last.tokens_seen == 30 * micro.tokens_per_step
    assert last.learning_rate == micro.learning_rate(29)
    assert last.weights_sha256 == weights_sha256(fetch(last))
    assert (suite.name, suite.train_corpus) == ("micro", micro.corpus)
    assert suite.training.warmup_steps == 3
    assert suite.recipe == json.loads(json.dumps(micro.plain()))
    config = json.loads((fetch(last) / "config.json").read_text())
    assert config["model_type"] == "gpt_neox"
    assert config["rope_parameters"]["partial_rotary_factor"] == 0.25
    assert config["use_parallel_residual"]
    assert not config["tie_word_embeddings"]
    assert config["dtype"] == "float16"


def test_the_first_update_has_learning_rate_zero(trained):
    suite = open_suite(str(trained))
    assert [c.duplicate_of for c in suite.checkpoints[:3]] == [None, "step000000000", None]


def test_checkpoints_load_and_the_loss_falls(trained):
    suite = open_suite(str(trained))
    tokens = evaluation_tokens(parse_corpus(suite.default_corpus), suite.default_shape, vocab_size=300)
    ids = torch.from_numpy(tokens.array).flatten(0, 1)
    losses = []
    for checkpoint in (suite.checkpoints[0], suite.checkpoints[-1]):
        model = AutoModelForCausalLM.from_pretrained(fetch(checkpoint), dtype=torch.float32)
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert losses[0] == pytest.approx(np.log(300), abs=0.05)
    assert losses[1] < losses[0] - 0.5


def test_the_tokenizer_reads_back_what_it_wrote(trained):
    tokenizer = load_tokenizer(open_suite(str(trained)))
    text = "abc  def\n\tgh \u00e9\u4e2d\U0001f600."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.eos_token_id, len(tokenizer)) == (0, 300)


def test_a_killed_run_continues_bit_for_bit(micro, trained, tmp_path):
    for kill_at in (5, 20):  # before the first saved state, and some steps after one
        with Forked(train_until_killed, micro, tmp_path / "micro", kill_at) as child:
            assert child.wait() == -signal.SIGKILL
        assert not (tmp_path / "micro" / "suite.json").exists()
    (tmp_path / "micro" / ".step25.tmp").mkdir(exist_ok=True)
    (tmp_path / "micro" / ".step25.tmp" / "model.safetensors").write_bytes(b"half")
    pretrain(micro, tmp_path / "micro", device="cpu")
    assert weights(tmp_path / "micro") == weights(trained)
    assert not (tmp_path / "micro" / ".state").exists()
    assert (tmp_path / "micro" / "suite.json").read_bytes() == (trained / "suite.json").read_bytes()
    assert (tmp_path / "micro" / "eval_tokens.npy").read_bytes() == (trained / "eval_tokens.npy").read_bytes()


def test_a_finished_suite_is_left_alone_and_a_lost_checkpoint_made_again(micro, trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "micro")
    calls = []
    assert not pretrain(micro, copy, device="cpu", on_progress=lambda *told: calls.append(told))
    assert calls == []
    shutil.rmtree(copy / "step15")
    assert pretrain(micro, copy, device="cpu", on_progress=lambda *told: calls.append(told))
    assert weights(copy) == weights(trained)
    done, total, eta_s, note = calls[-1]
    assert (done, total, eta_s) == (30, 30, 0.0)
    assert note.startswith("loss ")


def test_another_seed_is_another_trajectory(micro, trained, tmp_path):
    pretrain(dataclasses.replace(micro, seed=1, steps=4), tmp_path / "other", device="cpu")
    other, first = weights(tmp_path / "other"), weights(trained)
    assert all(other[step] != first[step] for step in ("step0", "step2", "step4"))


def test_a_folder_of_another_recipe_is_refused(micro, trained, tmp_path):
    with pytest.raises(UsageError, match=r"peak_lr 0\.004, now 0\.002; seed 0, now 1"):
        pretrain(dataclasses.replace(micro, peak_lr=2e-3, seed=1), trained, device="cpu")
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"was not made by pretrain \(it holds thesis\.txt\)"):
        pretrain(micro, tmp_path, device="cpu")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"seed": NaN}', '{"name": "\\ud800"}', None])
def test_a_damaged_note_of_the_recipe_is_named(micro, tmp_path, text):
    note = tmp_path / ".state" / "recipe.json"
    note.parent.mkdir()
    if text is None:
        os.mkfifo(note)
    else:
        note.write_text(text)
    with pytest.raises(UsageError, match=r"recipe.json is broken: .*; delete"):
        pretrain(micro, tmp_path, device="cpu")


@pytest.mark.parametrize(("name", "value"), [("schedule", 3), ("min_lr", "low"), ("schedule", "unheard-of")])
def test_a_branch_from_a_recipe_of_other_types_is_refused(micro, tmp_path, name, value):
    source = tmp_path / "source"
    source.mkdir()
    write_manifest(source, Manifest("micro", (), recipe=micro.plain() | {name: value}))
    with pytest.raises(UsageError, match=rf"recipe.{name} is|unknown schedule of a recipe"):
        pretrain(micro, tmp_path / "b", device="cpu", branch_from=source)


def test_a_refused_corpus_does_not_claim_the_folder(micro, tmp_path):
    with pytest.raises(UsageError, match="no file matches"):
        pretrain(dataclasses.replace(micro, corpus="file:/nowhere/*.txt"), tmp_path / "out", device="cpu")
    pretrain(dataclasses.replace(micro, steps=1, warmup_steps=1), tmp_path / "out", device="cpu")


def test_two_runs_in_one_folder_are_refused(micro, tmp_path):
    with exclusive(tmp_path / ".lock"), pytest.raises(FolderLockedError):
        pretrain(micro, tmp_path, device="cpu")


def test_a_diverged_run_says_so(micro, tmp_path):
    wild = dataclasses.replace(micro, peak_lr=1e30, warmup_steps=0, clip_norm=1e30, weight_decay=0.0)
    with pytest.raises(CheckpointError, match=r"diverged: loss nan at step \d+; lower peak_lr"):
        pretrain(wild, tmp_path / "out", device="cpu")


def test_an_unknown_device_is_refused(micro, tmp_path):
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        pretrain(micro, tmp_path / "out", device="gpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_refused(micro, tmp_path):
    with pytest.raises(UsageError, match="torch sees 0 GPUs"):
        pretrain(micro, tmp_path / "out", device="cuda")


def test_a_branch_is_the_suite_from_scratch(micro, tmp_path):
    constant = dataclasses.replace(micro, schedule="constant")
    late = dataclasses.replace(micro, schedule="wsd", name="micro-wsd")  # decays over the last 6 of 30 steps
    pretrain(late, tmp_path / "whole", device="cpu")
    pretrain(constant, tmp_path / "constant", device="cpu", keep_state_at=(13, 22, 28))
    pretrain(late, tmp_path / "branch", device="cpu", branch_from=tmp_path / "constant")
    assert weights(tmp_path / "branch") == weights(tmp_path / "whole")
    assert (tmp_path / "branch/suite.json").read_text() == (tmp_path / "whole/suite.json").read_text()
    shared = [tmp_path / each / "step20/model.safetensors" for each in ("branch", "constant")]
    assert shared[0].stat().st_ino == shared[1].stat().st_ino, "linked, not trained again"
    assert weights(tmp_path / "constant")["step30"] != weights(tmp_path / "branch")["step30"]


def test_a_branch_needs_a_state_and_the_same_run(micro, trained, tmp_path):
    for change, complaint in (
        ({"schedule": "constant"}, "it saved none"),
        ({"seed": 1, "schedule": "constant"}, "with another seed"),
    ):
        with pytest.raises(UsageError, match=complaint):
            pretrain(dataclasses.replace(micro, **change), tmp_path / "b", device="cpu", branch_from=trained)
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
    with pytest.raises(UsageError, match="not a suite that pretrain made"):
        pretrain(micro, tmp_path / "c", device="cpu", branch_from=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="steps 1 to 30"):
        pretrain(micro, tmp_path / "d", device="cpu", keep_state_at=(99,))
    with pytest.raises(UsageError, match="passed step 20 without saving its state"):
        pretrain(micro, trained, device="cpu", keep_state_at=(20,))


@pytest.mark.parametrize("name", list(RECIPES))
def test_constant_and_wsd_are_one_run_up_to_the_decay_whatever_the_rounding(name):
    recipe = find_recipe(name)
    constant, late = (
        dataclasses.replace(recipe, schedule=each).learning_rate for each in ("constant", "wsd")
    )
    decay = recipe.steps * 4 // 5
    assert agree(constant, late, decay)
    assert not agree(constant, late, recipe.steps)
