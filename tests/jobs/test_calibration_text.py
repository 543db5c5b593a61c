"""Calibration text from the command line: where it comes from, that it is kept, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import Result

from pipeline.base.fingerprints import tokens_sha256
from pipeline.corpus.calibration_text import CalibrationShape
from pipeline.models import sampling
from pipeline.runs.calibration_request import CalibrationNeed, calibration_tokens
from pipeline.runs.folder import RunFolder
from pipeline.runs.shard_schema import FORK
from pipeline.suites import open_suite
from tests.calibrated import SEEN
from tests.jobs.conftest import MEASURE, trajectory
from tests.models import VOCAB, save_tiny_model, save_tiny_suite

Run = Callable[..., Result]
TOY = "int4-g8-asym@weighed"
METHODS = ("--variant", "int4-g8-asym", "--variant", TOY, "--calibration-sequences", "6")


@pytest.fixture
def calibration_file(tmp_path: Path) -> str:
    np.save(tmp_path / "calibration.npy", np.random.default_rng(1).integers(0, VOCAB, 512))
    return f"tokens:{tmp_path}/calibration.npy"


def shard(out: Path | str, key: str):
    return RunFolder(out).shards.read(key)


def losses(out: Path | str, key: str = "step000000000") -> dict[str, float]:
    return {row["variant"]: row["nll_nats"] for row in shard(out, key).table.to_pylist()}


def kept_tokens(out: Path) -> np.ndarray:
    (path,) = (out / "calibration").glob("*.npy")
    return np.load(path)


def refuse_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("text was written a second time")

    monkeypatch.setattr(sampling, "sampled_tokens", fail)


def test_the_last_checkpoint_writes_the_text_once(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SEEN.clear()
    out = tmp_path / "out"
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", out, *MEASURE, *METHODS)
    first = run_here(*audit, "--limit", "2")
    assert first.exit_code == 0, first.output
    assert "calibration text: 192/192" in first.stdout
    tokens = kept_tokens(out)
    assert tokens.shape == (6, 32)
    assert (tokens[:, 0] == 0).all(), "the suite's text begins with its bos token"
    assert set(SEEN) == {6 * 32}
    config = shard(out, "step000000000").config
    assert config["calibration_sha256"] == tokens_sha256(tokens)
    found = losses(out)
    assert found[TOY] != found["int4-g8-asym"]
    refuse_sampling(monkeypatch)
    rest = run_here(*audit)
    assert rest.exit_code == 0, rest.output
    assert "4 measured, 2 existed already" in rest.stdout
    # The suite goes on; the text stays, although another checkpoint is now the last.
    save_tiny_model("llama", llama_suite / "step60", seed=60)
    more = run_here(*audit)
    assert more.exit_code == 0, more.output
    assert "1 measured, 6 existed already" in more.stdout
    assert run_here("reduce", out).exit_code == 0
    report = json.loads((out / "report.json").read_text())
    assert report["calibration"] == {
        "text": "self, written by step50",
        "tokens_sha256": tokens_sha256(tokens),
    }
    (method,) = report["methods"]
    assert (method["variant"], method["rounded"]) == (TOY, "int4-g8-asym")
    assert "int4_g8_asym_weighed_gap_over_rtn" in trajectory(out).columns


def test_calibrated_variants_are_added_to_a_run_without_and_stay(
    run_here: Run, llama_suite: Path, tokens_file: str, calibration_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", out, "--limit", "2", *MEASURE)
    assert run_here(*audit, "--variant", "int4-g8-asym").exit_code == 0
    assert "calibration_sha256" not in json.dumps(shard(out, "step000000000").config) or (
        shard(out, "step000000000").config["calibration_sha256"] is None
    )
    calibrated = (*audit, *METHODS, "--calibration", calibration_file)
    added = run_here(*calibrated)
    assert added.exit_code == 0, added.output
    assert f"lacks {TOY}" in added.stdout
    before = losses(out)
    # Neither a request without calibrated variants nor one that adds such a variant makes them stale.
    assert "2 existed already" in run_here(*audit, "--variant", "int4-g8-asym").stdout
    other = run_here(*audit, "--variant", "int3-g8-asym")
    assert other.exit_code == 0, other.output
    assert "2 existed already" in run_here(*calibrated).stdout
    assert losses(out).items() >= before.items()
    # Other text makes other numbers.
    refused = run_here(*audit, *METHODS, "--calibration", "self")
    assert refused.exit_code == 2
    assert "calibration_sha256" in refused.stderr
    replaced = run_here(*audit, *METHODS, "--calibration", "self", "--replace-stale")
    assert replaced.exit_code == 0, replaced.output
    assert losses(out)["fp32"] == before["fp32"]
    assert losses(out)[TOY] != before[TOY]


def test_damaged_kept_text_is_made_again(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    audit = ("audit", llama_suite, "--corpus", tokens_file, "--out", out, *MEASURE, *METHODS)
    assert run_here(*audit, "--limit", "1").exit_code == 0
    tokens = kept_tokens(out)
    (path,) = (out / "calibration").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-8])
    again = run_here(*audit, "--limit", "2")
    assert again.exit_code == 0, again.output
    assert "1 measured, 1 existed already" in again.stdout
    assert (kept_tokens(out) == tokens).all()


def test_text_is_kept_in_an_object_store(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path, bucket: str
) -> None:
    shared = ("--corpus", tokens_file, "--limit", "1", *MEASURE, *METHODS)
    for out in (f"{bucket}/run", tmp_path / "out"):
        done = run_here("audit", llama_suite, "--out", out, *shared)
        assert done.exit_code == 0, done.output
    assert losses(f"{bucket}/run") == losses(tmp_path / "out")


def test_a_suite_with_training_text_is_calibrated_on_that(run_here: Run, tmp_path: Path) -> None:
    from pipeline.corpus import held_out
    from pipeline.suites import load_tokenizer, open_suite
    from tests.models import write_text_corpus

    corpus = write_text_corpus(tmp_path / "text")
    suite = tmp_path / "suite"
    trained = run_here("pretrain", "micro", "--out", suite, "--corpus", corpus, "--steps", "5")
    assert trained.exit_code == 0, trained.output
    out = tmp_path / "out"
    done = run_here("audit", suite, "--out", out, "--limit", "1", "--workers", "1", *METHODS)
    assert done.exit_code == 0, done.output
    text = load_tokenizer(open_suite(str(suite))).decode(kept_tokens(out).ravel())
    texts = [path.read_text() for path in sorted((tmp_path / "text").glob("*.txt"))]
    assert text.startswith(next(each for each in texts if not held_out(each))[:40])
    plan = RunFolder(out).read_plan()
    assert plan.calibration == f"the training part of {corpus}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--calibration", "docstring"), "did you mean 'docstrings'"),
        (("--calibration", "tokens:nowhere.npy"), "nowhere.npy"),
        (("--calibration", "docstrings"), "no tokenizer"),
        (("--calibration", "{tokens}"), "overlaps the evaluation text"),
        (("--calibration", "{short}"), "has 100 tokens; 6 sequences of 32 need 192.*sequences 3 fits"),
        (("--calibration", "{beyond}"), "holds token id 320: wanted 0 to 319"),
        (("--calibration-sequences", "0"), "calibration-sequences"),
        (("--variant", "int4@weighed:powder=1"), "did you mean 'power'"),
        (("--variant", "int4@weighed:power=much"), "wanted a value of type float"),
        (("--variant", "int4@weigh"), "did you mean 'weighed'"),
        (("--corpus", "self"), "unknown corpus 'self'"),
    ],
)
def test_wrong_calibration_exits_2_and_writes_nothing(
    run_here: Run,
    llama_suite: Path,
    tokens_file: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    np.save(tmp_path / "short.npy", np.random.default_rng(2).integers(0, VOCAB, 100))
    np.save(tmp_path / "beyond.npy", np.full(512, VOCAB))
    names = {
        "tokens": tokens_file, "short": f"tokens:{tmp_path}/short.npy", "beyond": f"tokens:{tmp_path}/beyond.npy",
    }  # fmt: skip
    given = [argument.format(**names) for argument in arguments]
    command = ("audit", llama_suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE, *METHODS)
    result = run_here(*command, *given)
    assert result.exit_code == 2, result.output
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_last_checkpoint_that_cannot_write_is_refused_by_name(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    command = ("audit", llama_suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE, *METHODS)
    path = llama_suite / "step50" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"][0, 0] = torch.nan
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    result = run_here(*command)
    assert result.exit_code == 2, result.output
    assert "step50 of llama cannot write it" in result.stderr
    assert "--calibration CORPUS" in result.stderr
    shutil.rmtree(llama_suite / "step50")
    assert run_here(*command).exit_code == 0


def test_a_model_that_often_repeats_the_evaluation_text_writes_on(tmp_path: Path) -> None:
    folder = save_tiny_suite("llama", tmp_path / "llama", ["step0"])
    path = folder / "step0" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["model.norm.weight"].zero_()  # every token is as likely
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    evaluation = np.random.default_rng(0).integers(
        0, 2, (1, 240)
    )  # holds some 60 % of all runs of eight zeros and ones
    need = CalibrationNeed(
        open_suite(folder), CalibrationShape(256, 8), evaluation, vocab_size=VOCAB, vocab_rows=2
    )
    made, _ = calibration_tokens("self", need, RunFolder(tmp_path / "out"))
    assert made.array.shape == (256, 8)
    known = {tuple(run) for run in np.lib.stride_tricks.sliding_window_view(evaluation[0], 8)}
    assert not known & {tuple(row) for row in made.array}


def test_text_that_nothing_is_calibrated_on_is_told(
    run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    command = ("audit", llama_suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE)
    result = run_here(*command, "--limit", "1", "--variant", "int4-g8-asym", "--calibration", "self")
    assert result.exit_code == 0, result.output
    assert "no variant is calibrated" in result.stderr
    assert not (tmp_path / "out" / "calibration").exists()


def test_calibrated_variants_are_there_in_every_command(
    run_here: Run, llama_suite: Path, tokens_file: str, calibration_file: str, tmp_path: Path
) -> None:
    shared = ("--corpus", tokens_file, *MEASURE, *METHODS, "--calibration", calibration_file)
    out, streamed = tmp_path / "out", tmp_path / "streamed"
    done = run_here("run", llama_suite, "--out", out, *shared)
    assert done.exit_code == 0, done.output
    page = (out / "report.html").read_text()
    assert 'aria-label="int4-g8-asym"' in page
    assert "calibration.npy" in page
    assert (
        run_here("audit", llama_suite, "--out", streamed, "--limit", "1", "--stream", *shared).exit_code == 0
    )
    assert losses(streamed) == losses(out)
    column = "int4_g8_asym_weighed"
    table = trajectory(out)
    assert f"{column}_gap" in table.columns
    phases = run_here("phases", out / "tables" / "trajectory.parquet", "--variant", column, "--json")
    assert phases.exit_code == 0, phases.output
    windows = ("--before", "0:20", "--end", "30:50")
    compared = run_here("compare", out, *windows, "--variant", column, "--json")
    assert compared.exit_code == 0, compared.output
    assert json.loads(compared.stdout.splitlines()[0])["variant"] == column


@pytest.mark.slow
def test_forks_probe_calibrated_variants(run_here: Run, tmp_path: Path) -> None:
    from tests.models import write_text_corpus

    corpus, suite, out = write_text_corpus(tmp_path / "text"), tmp_path / "suite", tmp_path / "out"
    trained = run_here("pretrain", "micro", "--out", suite, "--corpus", corpus, "--steps", "10")
    assert trained.exit_code == 0, trained.output
    fork = (
        "fork", suite, "--from", "5", "--out", out, "--schedules", "cosine", "--seeds", "1", "--steps", "4",
        "--probe-every", "2", "--tokens-per-step", "64", "--workers", "1", "--learning-rate", "0.001", *METHODS,
    )  # fmt: skip
    done = run_here(*fork)
    assert done.exit_code == 0, done.output
    assert kept_tokens(out).shape == (6, 32)
    rows = RunFolder(out, FORK).shards.read("cosine-seed0").table.to_pylist()
    live = {row["step"]: row for row in rows if row["variant"] == TOY and row["weights"] == "live"}
    assert list(live) == [0, 2, 4]
    assert all(row["gap"] == row["gap"] for row in live.values())
    assert "1 existed already" in run_here(*fork).stdout
