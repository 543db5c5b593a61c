"""A rerun that wants more variants or measurements adds them to the shards that are there, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import Result

from pipeline.base.files import with_checksum
from pipeline.measurements import (
    CheckpointMeasurement,
    Column,
    TensorMeasurement,
    TokenMeasurement,
    register,
    unregister,
)
from tests.jobs.conftest import MEASURE, trajectory
from tests.run_files import read_checked

Run = Callable[..., Result]
INT3 = ("--variant", "int4", "--variant", "int3-g32-sym")


@pytest.fixture
def audit(run_here: Run, llama_suite: Path, tokens_file: str, tmp_path: Path) -> Callable[..., Result]:
    """Audits the first two checkpoints into ``out``."""

    def call(*options: str, out: str = "out") -> Result:
        common = ("--corpus", tokens_file, "--out", tmp_path / out, "--limit", "2", *MEASURE)
        return run_here("audit", llama_suite, *common, *options)

    return call


def rows(out: Path, step: int) -> dict[str, dict[str, Any]]:
    table = read_checked(out / f"shards/audit/step{step:09d}.arrow")
    return {row["variant"]: row for row in table.to_pylist()}


def test_a_variant_is_added_and_what_was_there_stays_bit_for_bit(
    audit: Run, run_here: Run, tmp_path: Path
) -> None:
    assert audit().exit_code == 0
    run_here("reduce", tmp_path / "out")
    before, table = rows(tmp_path / "out", 10), trajectory(tmp_path / "out")

    added = audit(*INT3)
    assert added.exit_code == 0, added.output
    assert "2 measured, 0 existed already" in added.stdout
    after = rows(tmp_path / "out", 10)
    assert list(after) == ["fp32", "int8-channel-sym", "int4-g128-asym", "int3-g32-sym"]
    assert {name: after[name] for name in before} == before

    alone = audit(*INT3, out="alone")
    assert alone.exit_code == 0
    wanted = rows(tmp_path / "alone", 10)["int3-g32-sym"]
    for name in ("nll_nats", "kl_nats_mean", "top1_agreement"):
        assert after["int3-g32-sym"][name] == pytest.approx(wanted[name], rel=1e-5)
    assert after["int3-g32-sym"]["tensors"] == wanted["tensors"]

    run_here("reduce", tmp_path / "out")
    more = trajectory(tmp_path / "out")
    same = [name for name in table.columns if name.startswith(("fp32_", "int4_", "int8_"))]
    assert more.select(same).equals(table.select(same)), (
        "the variant that was not asked for again is shown too"
    )
    assert "int3_g32_sym_gap" in more.columns
    assert audit(*INT3).stdout.startswith("2 shards exist already; 0 to measure")
    assert audit().stdout.startswith("2 shards exist already; 0 to measure"), "more than was asked is fine"


def test_status_and_reduce_name_what_a_shard_lacks(audit: Run, run_here: Run, tmp_path: Path) -> None:
    assert audit().exit_code == 0
    assert audit("--limit", "1", *INT3).exit_code == 0
    status = run_here("status", tmp_path / "out")
    assert "1 done, 0 failed, 1 incomplete, 0 stale, 0 missing of 2" in status.stdout
    assert "incomplete step000000010: lacks int3-g32-sym" in status.stdout
    state = json.loads(run_here("status", tmp_path / "out", "--json").stdout)
    assert state["incomplete"] == {
        "step000000010": {"variants": ["int3-g32-sym"], "measurements": [], "controls": [], "swapped": []},
    }
    refused = run_here("reduce", tmp_path / "out")
    assert refused.exit_code == 1
    assert "step10 lacks int3-g32-sym" in refused.stderr
    assert run_here("reduce", tmp_path / "out", "--allow-missing").exit_code == 0
    assert trajectory(tmp_path / "out")["step"].to_list() == [0]


def test_numbers_that_do_not_agree_any_more_are_measured_again_as_a_whole(audit: Run, tmp_path: Path) -> None:
    assert audit().exit_code == 0
    path = tmp_path / "out/shards/audit/step000000010.arrow"
    before = rows(tmp_path / "out", 10)
    table = read_checked(path)
    wrong = table.to_pylist()
    wrong[0]["batch_nll_nats"] = [value + 1e-4 for value in wrong[0]["batch_nll_nats"]]
    wrong[0]["sequence_nll_nats"] = [value + 1e-4 for value in wrong[0]["sequence_nll_nats"]]
    wrong[0]["nll_nats"] += 1e-4
    wrong[0]["perplexity"] = math.exp(wrong[0]["nll_nats"])
    path.write_bytes(with_checksum(pa.Table.from_pylist(wrong, schema=table.schema)))
    again = audit(*INT3)
    assert again.exit_code == 0, again.output
    assert "measured again as a whole: the loss of fp32 was" in again.stderr
    after = rows(tmp_path / "out", 10)
    assert list(after) == ["fp32", "int4-g128-asym", "int3-g32-sym"]
    assert after["fp32"]["nll_nats"] == pytest.approx(before["fp32"]["nll_nats"], abs=1e-9)


@pytest.fixture
def toys() -> Iterator[None]:
    """A measurement of each level."""
    register(
        TokenMeasurement(
            name="surprise",
            columns=(
                Column("surprise_share", "share", "Surprise", "Share of tokens below p = 0.01.", heading="surprise"),
            ),
            per_token=lambda block: {"is_surprise": (block.log_p_VP < math.log(0.01)).float()},
            values={"is_surprise": "float32"},
            summarise=lambda values, _: {"surprise_share": float(values["is_surprise"].mean())},
        )
    )  # fmt: skip
    register(
        TensorMeasurement(
            name="largest_error",
            columns=(Column("largest_error", "", "Largest error", pooled="mean", heading="error"),),
            of_tensor=lambda weight: {
                "largest_error": None
                if weight.quantized_OI is None
                else (weight.quantized_OI - weight.weight_OI).abs().max().item()
            },
        )
    )
    register(
        CheckpointMeasurement(
            "size", (Column("n_weights", "", "Weights", dtype="int64", heading="Weights"),),
            lambda model, _: {"n_weights": sum(weight.numel() for weight in model.parameters())},
        )
    )  # fmt: skip
    yield
    for name in ("surprise", "largest_error", "size"):
        unregister(name)


@pytest.mark.usefixtures("toys")
def test_measurements_of_every_level_are_added_and_shown(audit: Run, run_here: Run, tmp_path: Path) -> None:
    assert audit().exit_code == 0
    before = rows(tmp_path / "out", 0)
    named = ("--measure", "surprise", "--measure", "largest_error", "--measure", "size")
    added = audit(*named)
    assert added.exit_code == 0, added.output
    assert "lacks surprise, largest_error, size" in added.stdout
    after = rows(tmp_path / "out", 0)
    for variant, row in before.items():
        kept = {name: value for name, value in after[variant].items() if name in row and name != "tensors"}
        assert kept == {name: value for name, value in row.items() if name != "tensors"}
        for old, new in zip(row["tensors"], after[variant]["tensors"], strict=True):
            assert {name: new[name] for name in old} == old
            assert (new["largest_error"] is None) == (variant == "fp32")
        assert 0 <= after[variant]["surprise_share"] <= 1
    assert after["fp32"]["n_weights"] > 1000
    assert after["int8-channel-sym"]["n_weights"] is None

    assert run_here("reduce", tmp_path / "out").exit_code == 0
    table = trajectory(tmp_path / "out")
    assert {"fp32_surprise_share", "int4_surprise_share", "int4_largest_error", "n_weights"} <= set(
        table.columns
    )
    assert table["n_weights"].null_count() == 0
    assert "largest_error" in pl.read_parquet(tmp_path / "out/tables/tensors.parquet").columns

    assert run_here("report", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out/report.html").read_text()
    for told in (
        '<option value="surprise_share">Surprise</option>',
        "INT4 surprise",
        "Weights",
        "Largest error",
    ):
        assert told in page

    assert audit(*INT3, *named).exit_code == 0
    row = rows(tmp_path / "out", 0)["int3-g32-sym"]
    assert row["surprise_share"] is not None
    assert row["tensors"][0]["largest_error"] > 0


@pytest.mark.usefixtures("toys")
def test_a_measurement_that_cannot_be_taken_is_refused_before_work(audit: Run, tmp_path: Path) -> None:
    for options, told in (
        (("--measure", "suprise"), "did you mean 'surprise'"),
        (("--measure", "size", "--stream"), "'size' needs the whole model"),
    ):
        refused = audit(*options)
        assert refused.exit_code == 2
        assert told in refused.stderr
    assert not (tmp_path / "out" / "shards").exists()


@pytest.mark.usefixtures("toys")
def test_a_shard_keeps_the_columns_of_a_measurement_that_is_not_installed(audit: Run, tmp_path: Path) -> None:
    assert audit("--measure", "surprise", "--measure", "largest_error").exit_code == 0
    before = rows(tmp_path / "out", 10)
    unregister("surprise")
    unregister("largest_error")
    assert audit(*INT3).exit_code == 0
    after = rows(tmp_path / "out", 10)
    assert {name: after[name] for name in before} == before
    assert after["int3-g32-sym"]["surprise_share"] is None
