"""The main job against a hub on which everything goes wrong, and again after it was mended."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from jobs.cli import main
from pipeline.probe import Prober
from pipeline.spec import DEFAULT_VARIANTS, ProbeSpec, TokenShape, parse_variants
from pipeline.suites import weights_sha256
from tests.models import VOCAB, save_tiny_model, tiny_model
from tests.run_files import read_checked
from tests.suites.hub.client import command
from tests.suites.hub.server import Hub, serve

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000)
BROKEN = ("step16", "step32", "step64", "step128", "step512")
MEASURE = ("--batches", 2, "--batch-size", 2, "--seq-len", 32, "--workers", 1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random GPT-NeoX checkpoints; step1 is step0 (Pythia's first learning rate is zero), step2000 is in several files,
    step3000 a pickle."""
    root = tmp_path_factory.mktemp("tiny-pythia")
    for step in STEPS:
        save_tiny_model("gpt_neox", root / f"step{step}", seed=0 if step == 1 else step)
    tiny_model("gpt_neox", 2000).half().save_pretrained(root / "step2000", max_shard_size="60KB")
    (root / "step2000" / "model.safetensors").unlink()
    pickled = root / "step3000" / "model.safetensors"
    torch.save(safetensors.torch.load_file(pickled), root / "step3000" / "pytorch_model.bin")
    pickled.unlink()
    save_tiny_model("gpt_neox", root / "replacement", seed=99)
    return root


@pytest.fixture
def hub(folders):
    hub = Hub("org/tiny-pythia")
    for step in STEPS:
        hub.push_folder(f"step{step}", folders / f"step{step}")
    hub.push("main", {"README.md": b"-"})
    with serve(hub):
        yield hub


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(0, VOCAB, 512))
    return f"tokens:{path}"


def break_everything(hub: Hub, folders: Path) -> None:
    for status in (503, 429, 500):
        hub.fault("status", "step2", status=status, times=1)
    hub.fault("cut", "step4", times=3)
    hub.fault("slow", "step8")
    hub.fault("corrupt", "step1000", times=1)
    hub.fault("status", "step256", file="tree", status=429, times=2)
    hub.fault("corrupt", "step16")  # for ever, as the next ones
    hub.fault("status", "step32")
    hub.fault("gone", "step64", file="tree")
    hub.fault("short", "step512")
    moved = {path.name: path.read_bytes() for path in (folders / "replacement").iterdir()}
    # Replaced as soon as anything is fetched: step128's old commit is deleted, step256's stays reachable.
    hub.replace_at_first_fetch("step128", moved, keep_old=False)
    hub.replace_at_first_fetch("step256", moved, keep_old=True)


def rows(out: Path) -> dict[int, pl.DataFrame]:
    tables = [pl.DataFrame(read_checked(path)) for path in sorted((out / "shards" / "audit").glob("*.arrow"))]
    return {table["step"][0]: table for table in tables}


def expected_nll(folder: Path, tokens: np.ndarray) -> list[float]:
    """The numbers of a checkpoint measured from its folder, in this process."""
    spec = ProbeSpec(parse_variants(DEFAULT_VARIANTS), TokenShape(2, 2, 32), tokens_sha256="0" * 64)
    measured = Prober(spec, tokens[:128].reshape(2, 2, 32)).measure(folder)
    return [result.nll_nats for result in measured.results]


@pytest.mark.slow
def test_a_run_on_a_broken_hub_names_what_is_broken_and_a_rerun_fetches_only_that(
    hub, folders, corpus, tmp_path
):
    out, home = tmp_path / "out", tmp_path / "home"
    run = ("run", "org/tiny-pythia", "--corpus", corpus, "--out", out, "--cache-gb", 0.001, *MEASURE)
    whole = dict(hub.branches)
    break_everything(hub, folders)

    first = command(hub, home, *run)
    assert first.returncode == 1, first.stdout + first.stderr
    failed = re.findall(r"^failed: (\S+): (.*)$", first.stderr, re.MULTILINE)
    assert {name for name, _ in failed} == set(BROKEN)
    reasons = dict(failed)
    assert "was sent with hash" in reasons["step16"]
    assert "HTTP 503" in reasons["step32"]
    assert "there is no such revision" in reasons["step64"]
    assert "there is no such revision" in reasons["step128"]
    assert "ends after" in reasons["step512"]
    assert "duplicate: step1 has the same content as step0" in first.stderr
    measured = rows(out)
    assert set(measured) == {step for step in STEPS if f"step{step}" not in BROKEN}
    assert measured[1]["duplicate_of"].to_list() == ["step000000000"] * 3
    status = json.loads(CliRunner().invoke(main, ["status", str(out), "--json"]).stdout)
    assert sorted(status["failed"]) == sorted(f"step{int(name[4:]):09d}" for name in BROKEN)
    assert sum(path.stat().st_size for path in home.rglob("*.safetensors")) <= 1e6, "the disk budget was kept"

    hub.faults.clear()
    hub.branches |= {name: commit for name, commit in whole.items() if name != "step128"}
    hub.log.clear()
    again = command(hub, home, *run)
    assert again.returncode == 0, again.stdout + again.stderr
    assert sorted(hub.fetched()) == sorted(BROKEN)
    assert "9 shards exist already; 5 to measure" in again.stdout
    from_hub = rows(out)
    assert set(from_hub) == set(STEPS)

    tokens = np.load(corpus.removeprefix("tokens:"))
    for step, table in from_hub.items():
        folder = folders / ("replacement" if step == 128 else f"step{step}")  # step128 stays replaced
        assert table["weights_sha256"].unique().to_list() == [weights_sha256(folder)]
        assert table["nll_nats"].to_list() == pytest.approx(expected_nll(folder, tokens), abs=1e-6)
