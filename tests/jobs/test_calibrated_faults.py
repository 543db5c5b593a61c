"""A calibrated run killed in the middle and resumed gives the tables of one that nothing happened to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from tests.jobs.conftest import start_here, trajectory
from tests.models import save_tiny_suite
from tests.waiting import wait_for

Run = Callable[..., Result]
SIZE = (
    "--batches", "4", "--batch-size", "4", "--seq-len", "32", "--workers", "1", "--calibration-sequences", "16",
)  # fmt: skip
VARIANTS = ("int4-g8-asym", "int4-g8-asym@gptq", "int8-g16-sym@gptq:damping=0.05", "nf4-b64")
N_CHECKPOINTS = 4


def test_killed_and_resumed_equals_undisturbed(run_here: Run, tokens_file: str, tmp_path: Path) -> None:
    suite = save_tiny_suite("gpt_neox", tmp_path / "suite", [f"step{n}" for n in range(N_CHECKPOINTS)])
    out, whole = tmp_path / "out", tmp_path / "whole"
    shared = (suite, "--corpus", tokens_file, *SIZE, *(f"--variant={name}" for name in VARIANTS))
    shards = out / "shards" / "audit"
    with start_here("audit", *shared, "--out", out, held_after=2) as first:
        wait_for(lambda: len(list(shards.glob("*.arrow"))) == 2, first)
        first.kill()
    kept = {path.name: path.read_bytes() for path in shards.glob("*.arrow")}
    assert len(kept) == 2
    (text,) = (out / "calibration").glob("*.npy")
    calibrated_on = text.read_bytes()
    resumed = run_here("audit", *shared, "--out", out)
    assert resumed.exit_code == 0, resumed.output
    assert {name: (shards / name).read_bytes() for name in kept} == kept, "a finished shard was touched"
    assert not list(out.rglob(".*.tmp"))
    assert text.read_bytes() == calibrated_on
    undisturbed = run_here("audit", *shared, "--out", whole)
    assert undisturbed.exit_code == 0, undisturbed.output
    for folder in (out, whole):
        assert run_here("reduce", folder).exit_code == 0
    assert trajectory(out).equals(trajectory(whole))
    assert trajectory(out)["int4_g8_asym_gptq_nll_nats"].is_finite().all()
