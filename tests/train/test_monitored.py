"""The monitor beside real trainings: they are the same with it, and its verdicts survive kills and late requests."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from jobs.cli import main
from pipeline.corpus import evaluation_tokens, parse_corpus
from pipeline.kinds.fork_work import ForkWork
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.monitor.watched_suite import SuiteWatch
from pipeline.probe import Prober
from pipeline.runs.folder import RunFolder
from pipeline.runs.fork_run import ForkRun
from pipeline.runs.shard_schema import FORK
from pipeline.runs.warm_state import WarmState
from pipeline.spec import ProbeSpec, parse_variants
from pipeline.suites import fetch, open_suite, weights_sha256
from pipeline.train import Recipe, pretrain
from tests.forks import fork_task, rows


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe(micro: Recipe) -> Recipe:
    """The micro recipe with an evaluation of little text."""
    return dataclasses.replace(micro, eval_batches=4)


def weights(folder: Path) -> dict[str, str]:
    return {path.parent.name: weights_sha256(path.parent) for path in folder.glob("step*/config.json")}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def watched(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, trained in one go with the monitor."""
    folder = tmp_path_factory.mktemp("watched") / "micro"
    pretrain(recipe, folder, device="cpu", watch=SuiteWatch(recipe, folder, ("int4", "int8"), device="cpu"))
    return folder


@pytest.fixture(scope="module")
def alone(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, trained without it."""
    folder = tmp_path_factory.mktemp("alone") / "micro"
    pretrain(recipe, folder, device="cpu")
    return folder


def test_a_suite_is_the_same_bit_for_bit_with_and_without_it(watched: Path, alone: Path) -> None:
    assert weights(watched) == weights(alone)
    assert (watched / "suite.json").read_bytes() == (alone / "suite.json").read_bytes()


def test_every_checkpoint_has_a_verdict_with_the_losses_of_an_audit(recipe: Recipe, watched: Path) -> None:
    found = lines(watched / "monitor.jsonl")
    suite = open_suite(str(watched))
    tokens = evaluation_tokens(parse_corpus(suite.default_corpus or ""), recipe.evaluation_shape)
    prober = Prober(
        ProbeSpec(parse_variants(("int8", "int4")), recipe.evaluation_shape, tokens.sha256), tokens.array
    )
    assert [each["step"] for each in found] == list(recipe.checkpoint_steps)
    for each, checkpoint in zip(found, suite.checkpoints, strict=True):
        audited = {result.variant: result.nll_nats for result in prober.measure(fetch(checkpoint)).results}
        assert each["nll_nats"]["fp32"] == audited["fp32"]
        assert each["nll_nats"]["int4"] == audited["int4-g128-asym"]
        assert each["nll_nats"]["int8"] == audited["int8-channel-sym"]
        assert each["learning_rate"] == checkpoint.learning_rate
    losses = [each["nll_nats"]["int4"] for each in found]
    assert found[-1]["ship"] == {
        "step": found[int(np.argmin(losses))]["step"],
        "weights": "live",
        "nll_nats": min(losses),
    }


def killed(watch: SuiteWatch, at: int) -> Callable[..., None]:
    """``watch`` in a process that dies when the checkpoint of step ``at`` has been saved but not observed."""

    def watching(step: int, *args: Any) -> None:
        if step == at:
            raise KeyboardInterrupt
        watch(step, *args)

    return watching


def test_a_killed_training_continues_its_verdicts(recipe: Recipe, watched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "micro"
    variants = ("int4", "int8")
    with pytest.raises(KeyboardInterrupt):
        pretrain(
            recipe,
            folder,
            device="cpu",
            state_every=7,
            watch=killed(SuiteWatch(recipe, folder, variants), 16),
        )
    verdicts = folder / "monitor.jsonl"
    assert [each["step"] for each in lines(verdicts)] == [
        each for each in recipe.checkpoint_steps if each < 16
    ]
    with verdicts.open("a") as file:
        file.write('{"step": 16, "nll_na')  # a crash of the machine in the middle of a line
    pretrain(recipe, folder, device="cpu", state_every=7, watch=SuiteWatch(recipe, folder, variants))
    assert verdicts.read_bytes() == (watched / "monitor.jsonl").read_bytes()


def test_verdicts_that_are_asked_for_afterwards_are_the_same(
    recipe: Recipe, watched: Path, alone: Path, tmp_path: Path
) -> None:
    shutil.copytree(alone, tmp_path / "micro")
    for variants in (("int8",), ("int4", "int8")):  # the second is not in the verdicts of the first
        pretrain(recipe, tmp_path / "micro", watch=SuiteWatch(recipe, tmp_path / "micro", variants))
    assert (tmp_path / "micro" / "monitor.jsonl").read_bytes() == (watched / "monitor.jsonl").read_bytes()
    assert weights(tmp_path / "micro") == weights(alone)


def test_a_model_that_gets_worse_raises_an_alarm_once(recipe: Recipe, alone: Path, tmp_path: Path) -> None:
    long = dataclasses.replace(recipe, steps=40, checkpoint_every=1)
    suite = open_suite(str(alone))
    folder = fetch(suite.checkpoints[-1])
    model = build_model(read_config(folder), read_weights(folder))
    told: list[str] = []
    watch = SuiteWatch(long, tmp_path, device="cpu", on_alarm=told.append)
    noise = torch.Generator().manual_seed(0)
    held_out = np.load(alone / "eval_tokens.npy")
    for step in range(41):
        with torch.no_grad():
            for each in model.parameters():
                each.add_(each.std() * max(0, step - 10) * 0.01 * torch.randn(each.shape, generator=noise))
        watch(step, held_out, model)
    assert len(told) == 1
    alarmed = [each["step"] for each in lines(tmp_path / "monitor.jsonl") if each["alarm"]]
    assert alarmed == list(range(alarmed[0], 41))
    assert 12 <= alarmed[0] <= 30


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--monitor", "--variant", "int4@gptq"), "calibration"),
        (("--monitor", "--variant", "fp32"), "quantized"),
        (("--monitor", "--variant", "int9"), "int9"),
        (("--variant", "int4"), "--monitor"),
    ],
)
def test_what_cannot_be_watched_is_refused_before_training(
    options: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    found = CliRunner().invoke(main, ["pretrain", "micro", "--out", str(tmp_path / "out"), *options])
    assert found.exit_code == 2, found.output
    assert named in found.output
    assert not (tmp_path / "out").exists()


def test_the_command_tells_the_verdict_in_one_sentence(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "pretrain",
        "micro",
        "--corpus",
        recipe.corpus,
        "--steps",
        "8",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    found = CliRunner().invoke(main, [*command, "--monitor"])
    assert found.exit_code == 0, found.output
    best = lines(out / "monitor.jsonl")[-1]["ship"]
    assert f"ship step {best['step']}" in found.output


@pytest.fixture(scope="module")
def monitored(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a fork experiment with the monitor."""
    task = fork_task(watched, tmp_path_factory.mktemp("forks") / "out", monitor=True)
    ForkWork().run(task, WarmState())
    return task


def verdicts_of(task: Any) -> list[dict[str, Any]]:
    return lines(Path(task.out) / "monitor" / "fork" / f"{task.key}.jsonl")


def test_a_run_of_a_fork_is_the_same_with_it_and_judged_by_its_probes(
    monitored: Any, watched: Path, tmp_path: Path
) -> None:
    plain = fork_task(watched, tmp_path / "out")
    ForkWork().run(plain, WarmState())
    assert rows(plain) == rows(monitored)
    assert plain.spec.fingerprint() == monitored.spec.fingerprint()
    assert not (tmp_path / "out" / "monitor").exists()
    probes = [row for row in rows(monitored) if row["variant"] == "int4-g128-asym"]
    found = verdicts_of(monitored)
    assert [each["step"] for each in found] == [0, 3, 6, 9, 12]
    for each in found:
        own = {row["weights"]: row["nll_nats"] for row in probes if row["step"] == each["step"]}
        assert (each["nll_nats"]["int4"], each["averages"]) == (own.pop("live"), own)
    best = min(probes, key=lambda row: row["nll_nats"])
    assert found[-1]["ship"] == {
        "step": best["step"],
        "weights": best["weights"],
        "nll_nats": best["nll_nats"],
    }


def test_a_killed_run_continues_its_verdicts(
    monitored: Any, watched: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    task = fork_task(watched, tmp_path / "out", monitor=True, state_every=4)
    advance = ForkRun.advance

    def dies(run: ForkRun) -> None:
        if run.step == 10:
            raise KeyboardInterrupt
        advance(run)

    with monkeypatch.context() as patched:
        patched.setattr(ForkRun, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            ForkWork().run(task, WarmState())
    assert [each["step"] for each in verdicts_of(task)] == [0, 3, 6, 9]
    ForkWork().run(task, WarmState())
    assert verdicts_of(task) == verdicts_of(monitored)
    assert RunFolder(task.out, FORK).states.read(task.key) is None
