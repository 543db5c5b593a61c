"""The callback in real Trainers: metrics, best model, reporters, resumes, several processes."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from int4_collapse import Int4Callback, UsageError, measure
from tests.forked import ROOT, ended, run_code, run_script
from tests.models import VOCAB, tiny_model

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (4, 2, 24))

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*")


def rows(seed: int, number: int) -> list[dict[str, torch.Tensor]]:
    drawn = torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, (number, 16)))
    return [{"input_ids": ids, "labels": ids} for ids in drawn]


def trainer(out: Path, *callbacks: TrainerCallback, evaluated: Any = None, **settings: Any) -> Trainer:
    """Twelve steps with dropout, evaluated and saved every second one.

    Not of a GPT-NeoX: transformers saves its head under another name than the Trainer looks for when it resumes.
    """
    arguments: dict[str, Any] = {
        "max_steps": 12, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
        "logging_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 3, **settings,
    }  # fmt: skip
    return Trainer(
        tiny_model("llama", attention_dropout=0.1),
        TrainingArguments(str(out), **arguments),
        train_dataset=rows(0, 64),
        eval_dataset=rows(1, 8) if evaluated is None else evaluated,
        callbacks=list(callbacks),
    )


def curve(run: Trainer, name: str = "eval_int4_loss") -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in run.state.log_history if name in entry}


class Reporter(TrainerCallback):
    """What a reporter of the Trainer is told."""

    def __init__(self) -> None:
        self.told: dict[int, dict[str, float]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.told.setdefault(state.global_step, {}).update(logs)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Reporter, Int4Callback]:
    reporter, monitor = Reporter(), Int4Callback(TOKENS)
    best = {"metric_for_best_model": "int4_loss", "greater_is_better": False, "load_best_model_at_end": True}
    run = trainer(tmp_path_factory.mktemp("watched"), reporter, monitor, **best)
    run.train()
    return run, reporter, monitor


def test_the_best_model_is_the_one_with_the_lowest_quantized_loss(
    watched: tuple[Trainer, Reporter, Int4Callback],
) -> None:
    run, _, monitor = watched
    losses = curve(run)
    assert list(losses) == [2, 4, 6, 8, 10, 12]
    assert run.state.best_metric == min(losses.values())
    assert monitor.verdict is not None
    assert losses[monitor.verdict.best_step or 0] == run.state.best_metric
    found = {each.variant: each.nll_nats for each in measure(run.model, TOKENS, ["int4"]).results}
    assert found["int4-g128-asym"] == run.state.best_metric  # the model that was loaded at the end
    gaps = curve(run, "eval_int4_gap")
    fp32 = curve(run, "eval_fp32_loss")
    assert gaps[4] == pytest.approx(math.expm1(losses[4] - fp32[4]))


def test_reporters_are_told_and_an_evaluation_afterwards_is_of_the_model_at_hand(
    watched: tuple[Trainer, Reporter, Int4Callback],
) -> None:
    run, reporter, monitor = watched
    assert {
        step: told["eval_int4_loss"] for step, told in reporter.told.items() if "eval_int4_loss" in told
    } == (curve(run))
    verdict = monitor.verdict
    assert run.evaluate()["eval_int4_loss"] == run.state.best_metric
    assert monitor.verdict == verdict


def test_weights_and_losses_are_the_same_bit_for_bit_without_it(
    watched: tuple[Trainer, Reporter, Int4Callback], tmp_path: Path
) -> None:
    run, _, _ = watched
    alone = trainer(tmp_path, save_strategy="no")
    alone.train()
    for name in ("loss", "eval_loss"):
        assert curve(alone, name) == curve(run, name)
    again = trainer(
        tmp_path, Int4Callback(TOKENS), save_strategy="no"
    )  # the fixture's has gone back to its best
    again.train()
    for (name, a), b in zip(alone.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_resumed_run_gives_the_same_verdicts(
    watched: tuple[Trainer, Reporter, Int4Callback], tmp_path: Path
) -> None:
    whole, _, watching = watched
    first = trainer(tmp_path, Int4Callback(TOKENS), max_steps=12, save_steps=2)

    class Killed(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    first.add_callback(Killed())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    resumed = Int4Callback(TOKENS)
    run = trainer(tmp_path, resumed)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for name in ("loss", "eval_loss", "eval_int4_loss", "eval_int4_gap", "eval_fp32_loss"):
        assert curve(run, name) == curve(whole, name), name
    assert resumed.verdict == watching.verdict
    assert resumed.verdict is not None
    uninterrupted = trainer(tmp_path / "again", save_strategy="no")  # the fixture's has gone back to its best
    uninterrupted.train()
    for (name, a), b in zip(run.model.named_parameters(), uninterrupted.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    other = trainer(tmp_path, Int4Callback(TOKENS[:, :, ::-1]))
    with pytest.raises(UsageError, match="tokens"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_early_stopping_sees_it_and_several_evaluation_sets_are_one_observation(tmp_path: Path) -> None:
    run = trainer(
        tmp_path, Int4Callback(TOKENS, ["int4", "int8"], margin_nats=0.02),
        EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=10.0),
        evaluated={"a": rows(1, 4), "b": rows(2, 4)}, metric_for_best_model="int4_loss", greater_is_better=False,
        load_best_model_at_end=True,
    )  # fmt: skip
    run.train()
    assert run.state.global_step < 12
    assert [entry["step"] for entry in run.state.log_history if "eval_int8_loss" in entry] == list(curve(run))


def test_rising_losses_are_told_once_and_a_stop_comes_only_at_the_end_of_the_decay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Spoiler(TrainerCallback):
        """Makes the weights worse by a random walk, from a third of the run on."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step > 12:
                draw = torch.Generator().manual_seed(state.global_step)
                with torch.no_grad():
                    head = model.get_output_embeddings().weight
                    head.add_(0.05 * torch.randn(head.shape, generator=draw))

    def stopped(schedule: str) -> tuple[int, list[Any]]:
        alarms: list[Any] = []
        monitor = Int4Callback(TOKENS, on_alarm=alarms.append, stop_when_advised=True, rule="cusum")
        run = trainer(
            tmp_path, Spoiler(), monitor, max_steps=36, eval_steps=1, save_strategy="no", learning_rate=1e-4,
            lr_scheduler_type=schedule,
        )  # fmt: skip
        run.train()
        return run.state.global_step, alarms

    at, alarms = stopped("constant")
    assert at < 36
    assert len(alarms) == 1
    assert alarms[0].worse_since >= 12
    assert len([each for each in caplog.records if "worse" in each.message]) == 1
    assert stopped("linear")[0] == 36


RANKS = """
import json, os, sys, torch
from datetime import timedelta
from pathlib import Path
from tests.monitor.test_trainer_callback import TOKENS, curve, trainer
from int4_collapse import Int4Callback
child = os.fork()  # as torchrun starts them
rank = 1 if child else 0
os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
# They meet at a file: a port that was free might be another's before they listen at it.
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{sys.argv[1]}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=100)
)
out, monitor = Path(sys.argv[1]), Int4Callback(TOKENS)
run = trainer(out / "run", monitor, max_steps=4, ddp_backend="gloo", metric_for_best_model="int4_loss",
              greater_is_better=False)
run.train()
said = {"best": run.state.best_metric, "step": monitor.verdict.best_step, "curve": curve(run)}
(out / f"{run.args.process_index}.json").write_text(json.dumps(said))
assert not child or os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_in_several_processes_rank_0_measures_and_all_know(tmp_path: Path) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2"}
    ran = ended(run_code, RANKS, str(tmp_path), env={**os.environ, **place})
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0] == said[1]
    assert len(said[0]["curve"]) == 2


def test_the_example_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    script = ROOT / "docs" / "examples" / "monitor_trainer.py"
    ran = ended(run_script, script, str(tmp_path / "out"), "--steps", "60")
    assert ran.returncode == 0, ran.stderr[-2000:]
    loaded = re.search(r"loaded: step (\d+), INT4 loss ([\d.]+) nats", ran.stdout)
    assert loaded is not None
    assert float(loaded[2]) < math.log(128) - 2  # it learned: a uniform guess has ln 128 = 4.85 nats
    assert (tmp_path / "out" / f"checkpoint-{loaded[1]}").is_dir()
