"""``--mechanism``: added to a finished run, reduced to columns, and refused where there is nothing to explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import Result

from pipeline.analysis.trajectory.reduction import read_mechanism
from pipeline.runs.output import run_folder
from tests.jobs.conftest import MEASURE, trajectory
from tests.models import save_tiny_suite

Run = Callable[..., Result]
FACTORS = ("error_size", "sensitivity", "alignment")
COLUMNS = (
    *FACTORS,
    "slope",
    "curvature",
    "damage",
    "even_damage",
    "kappa",
    "permuted_ratio",
    "gaussian_ratio",
)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two checkpoints whose predictions are far from uniform."""
    return save_tiny_suite("gpt_neox", tmp_path / "suite", ["step0", "step10"], initializer_range=0.1)


def controls(folder: Path) -> dict[str, list[str]]:
    """Names of the controls in each row of the first shard."""
    with pa.OSFile(str(folder / "shards" / "audit" / "step000000000.arrow")) as file:
        rows = pa.ipc.open_file(file).read_all().to_pylist()
    return {
        row["variant"]: [f"{each['kind']} {each['layer']}" for each in row["controls"] or ()] for row in rows
    }


def test_controls_are_added_to_a_finished_run(
    run_here: Run, suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    audit = ("audit", suite, "--corpus", tokens_file, *MEASURE)
    later, at_once = tmp_path / "later", tmp_path / "at-once"
    assert run_here(*audit, "--out", later).exit_code == 0
    assert run_here("reduce", later).exit_code == 0
    before = trajectory(later)
    added = run_here(*audit, "--out", later, "--mechanism", "int4")
    assert added.exit_code == 0, added.output
    assert "the controls of int4-g128-asym" in added.stdout
    assert run_here(*audit, "--out", at_once, "--mechanism", "int4").exit_code == 0
    for folder in (later, at_once):
        assert run_here("reduce", folder).exit_code == 0
    assert trajectory(later).select(before.columns).equals(before)
    assert trajectory(later).equals(trajectory(at_once))
    again = run_here(*audit, "--out", later, "--mechanism", "int4")
    assert "0 measured" in again.stdout
    without = run_here(*audit, "--out", later)
    assert "0 measured" in without.stdout, "what is there and not asked for is no reason to measure"
    layers = run_here(*audit, "--out", later, "--mechanism", "int4,layers")
    assert "2 measured" in layers.stdout
    found = controls(later)
    assert found["int8-channel-sym"] == []
    assert len(found["fp32"]) == 4
    assert len(found["int4-g128-asym"]) == 16 + 2 * 3
    assert len(set(found["int4-g128-asym"])) == 4 + 2 * 2


def test_the_damage_is_the_product_of_its_factors(
    run_here: Run, suite: Path, tokens_file: str, tmp_path: Path
) -> None:
    audit = ("audit", suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE)
    assert run_here(*audit, "--mechanism", "--mechanism", "layers").exit_code == 0
    assert run_here("reduce", tmp_path / "out").exit_code == 0
    table = trajectory(tmp_path / "out")
    for variant in ("int8", "int4"):
        for name in COLUMNS:
            assert table[f"{variant}_{name}"].is_finite().all()
            assert (table[f"{variant}_{name}_se"] >= 0).all()
        damage = (table[f"{variant}_nll_nats"] - table["fp32_nll_nats"]).to_numpy()
        product = np.prod([table[f"{variant}_{name}"].to_numpy() for name in FACTORS], axis=0)
        assert product == pytest.approx(damage, rel=1e-12)
        squares = table[f"{variant}_error_size"].to_numpy()
        assert (squares > 0).all()
    assert (table["fp32_noise_5pct_nats_se"] > 0).all()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mechanism"]["sentences"]["int4"] in report["verdict"]
    for losses in read_mechanism(
        run_folder(tmp_path / "out")
    ):  # batch by batch, what the columns are made of
        for name, values in losses.factors().items():
            assert values == pytest.approx(table[f"{losses.variant}_{name}"].to_numpy(), rel=1e-9)
        assert losses.even_TB().mean(axis=1) == pytest.approx(
            table[f"{losses.variant}_even_damage"].to_numpy()
        )
    layers = pl.read_parquet(tmp_path / "out" / "tables" / "mechanism_layers.parquet")
    assert layers["layer"].to_list() == [0, 1] * 4
    for (step, variant), rows in layers.group_by("step", "variant"):
        column = "int8" if variant == "int8-channel-sym" else "int4"
        whole = table.filter(pl.col("step") == step)
        assert rows["weight_share"].sum() == pytest.approx(1.0)
        assert (rows["weight_share"] * rows["error_size"]).sum() == pytest.approx(
            whole[f"{column}_error_size"][0]
        )
        additivity = rows["damage"].sum() / whole[f"{column}_damage"][0]
        assert whole[f"{column}_additivity"][0] == pytest.approx(additivity)
        assert rows["damage"].to_numpy() == pytest.approx(
            (rows["error_size"] * rows["sensitivity"] * rows["alignment"]).to_numpy(), rel=1e-12
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--variant", "fp32", "--mechanism"), "only fp32 is measured"),
        (("--mechanism", "int3-g32-asym"), "--variant int3-g32-asym"),
        (("--mechanism", "int5"), "int4"),
        (("--mechanism", "fp32"), "no damage to explain"),
    ],
)
def test_a_mechanism_of_nothing_is_refused(
    run_here: Run, suite: Path, tokens_file: str, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    refused = run_here("audit", suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE, *options)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not (tmp_path / "out" / "shards").exists()
