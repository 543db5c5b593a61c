"""What a fork asks of its suite before it starts."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

import jobs.fork
import pipeline.driver.connection
import pipeline.runs.audit_request
import pipeline.runs.execute
from jobs.fork import run_fork_experiment
from pipeline.base.errors import UsageError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.progress import RunSummary
from pipeline.suites import open_suite
from tests.models import VOCAB


@pytest.fixture
def options(llama_suite: Path, tokens_file: str, tmp_path: Path) -> ForkOptions:
    train = tmp_path / "train.npy"
    np.save(train, np.random.default_rng(1).integers(0, VOCAB, 8192))
    audit = AuditOptions(
        suite=str(llama_suite), out=str(tmp_path / "out"), corpus=tokens_file, device="cpu", batches=1, seq_len=32
    )  # fmt: skip
    return ForkOptions(
        audit, start="30", schedules="cosine", n_steps=20, probe_every=10, tokens_per_step=64,
        train_corpus=f"tokens:{train}", learning_rate=1e-3,
    )  # fmt: skip


def test_verdicts_need_a_quantized_variant(options: ForkOptions) -> None:
    fp32 = dataclasses.replace(options.audit, variants=("fp32",))
    with pytest.raises(UsageError, match="--monitor"):
        build_fork_request(dataclasses.replace(options, audit=fp32, monitor=True))
    assert build_fork_request(dataclasses.replace(options, monitor=True)).monitor


def configure(suite: Path, **settings: object) -> None:
    for path in suite.glob("*/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_training_on_token_ids_needs_no_tokenizer(options: ForkOptions, llama_suite: Path) -> None:
    (llama_suite / "tokenizer.json").write_text("{")
    assert open_suite(str(llama_suite)).tokenizer is not None
    assert len(build_fork_request(options).train.tokens) > 0
    with pytest.raises(UsageError, match="tokenizer of suite llama"):
        build_fork_request(dataclasses.replace(options, train_corpus="docstrings"))


@pytest.mark.parametrize("size", [None, "320", 0])
def test_a_vocabulary_of_no_size_is_named(options: ForkOptions, llama_suite: Path, size: object) -> None:
    configure(llama_suite, vocab_size=size)
    with pytest.raises(UsageError, match=rf"suite llama gives vocab_size {size!r}: wanted a positive"):
        build_fork_request(options)


def test_what_is_wrong_with_the_suite_is_said(
    options: ForkOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def defective(name: str, revisions: str | None) -> object:
        return dataclasses.replace(open_suite(name, revisions), warnings=("known defect of llama",))

    monkeypatch.setattr(jobs.fork, "resolve_suite", defective)
    monkeypatch.setattr(pipeline.runs.execute, "execute", lambda *_: RunSummary((), 0, {}, 0.0))
    assert run_fork_experiment(options) == 0
    assert "warning: known defect of llama" in capsys.readouterr().err


def test_runs_longer_than_the_text_are_refused_at_once(options: ForkOptions) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"20,000,000 steps of 64 tokens are .* epochs"):
        build_fork_request(dataclasses.replace(options, n_steps=20_000_000))
    assert time.monotonic() - began < 5


def never(*_: object) -> None:
    raise AssertionError("work began")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": "7"}, "no step 7: the nearest are 4, 8, 10"),
        ({"start": "auto"}, "--from auto needs an audit of tiny"),
        ({"start": "0"}, "the learning rate at step0 is 0"),
        (
            {"start": "10", "schedules": "oli:period=12", "n_steps": 20, "probe_every": 20},
            "no probe falls into a settled cool phase",
        ),
        ({"start": "10", "n_steps": 10, "probe_every": 20}, "a probe every 20 steps in a run of 10"),
        ({"start": "10", "tokens_per_step": 33}, "--tokens-per-step 33: wanted a multiple of the 128"),
        ({"start": "10", "train_corpus": "nonsense"}, "nonsense"),
        ({"start": "10", "ema_decay": 2.0}, "ema-decay 2"),
        ({"start": "10", "lawa_window": 0}, "lawa-window 0"),
        ({"start": "10", "precision": "fp64"}, "precision fp64"),
    ],
)  # fmt: skip
def test_what_the_recipe_tells_is_judged_before_the_suite_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ForkOptions(AuditOptions(suite="tiny", out=str(tmp_path / "out"), device="cpu"), **change)
    with pytest.raises(UsageError, match=told):
        build_fork_request(options, never)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": "7"}, "no step 7"),
        ({"start": "30", "learning_rate": None}, "give --learning-rate"),
        ({"schedules": "oli:period=7"}, "no probe falls into a settled cool phase"),
        ({"train_corpus": None}, "does not state its training text"),
    ],
)
def test_what_the_suite_tells_is_judged_before_a_text_is_read(
    options: ForkOptions, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], told: str
) -> None:
    monkeypatch.setattr(pipeline.runs.audit_request, "evaluation_tokens", never)
    with pytest.raises(UsageError, match=told):
        build_fork_request(dataclasses.replace(options, **change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": (7,)}, "no step 7: the nearest are 4, 8, 10"),
        ({"limit": 0}, "limit 0"),
        ({"revisions": "main"}, "matches none of the 154 checkpoints of tiny"),
        ({"flatness": (7,)}, "--flatness 7"),
        ({"swap": (7, 10)}, "--swap 7"),
        ({"seq_len": 256}, "--seq-len 256: the models of tiny take at most 128"),
        ({"mechanism": ("int3",)}, "unknown variant of --mechanism"),
        ({"calibration": "nonsense"}, "--calibration nonsense"),
        ({"measurements": ("critical_sharpness",)}, "critical_sharpness"),
    ],
)
def test_an_audit_of_a_recipe_is_judged_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = AuditOptions(**{"suite": "tiny", "out": str(tmp_path / "out"), "device": "cpu", **change})
    with pytest.raises(UsageError, match=told):
        build_request(options, never)


def test_a_gpu_that_is_not_there_is_told_before_the_suite_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Other tests of this process may share a Ray by now; this machine's devices count only where none runs.
    monkeypatch.setattr(pipeline.driver.connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(pipeline.driver.connection, "cuda_memory", lambda: ())
    with pytest.raises(UsageError, match="--device cuda: this machine has no GPU"):
        build_request(AuditOptions(suite="tiny", out=str(tmp_path / "out"), device="cuda"), never)
