"""What to ship, from the table of a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from jobs.cli import main
from pipeline.analysis.decision import DecisionSettings
from pipeline.analysis.trajectory.reduction import redecide, write_report
from pipeline.analysis.trajectory.shipping import ShippingDecision, decisions_of, shipping_decision
from pipeline.base.errors import UsageError
from pipeline.base.typed_json import from_json, to_json
from pipeline.runs.folder import RunFolder
from tests.report import synthetic


def table(n: int = 40, *, batches: int = 16, step: np.ndarray | None = None) -> pl.DataFrame:
    """INT4 is best at step 300 of 390, INT8 at the end."""
    rng = np.random.default_rng(0)
    text = rng.normal(0, 0.3, batches)
    steps = np.arange(0, 10 * n, 10) if step is None else step
    fp32 = 2 + 0.5 * np.exp(-np.arange(n) / 8)[:, None] + text + rng.normal(0, 0.0003, (n, batches))
    int4 = (
        fp32
        + 0.02
        + 0.004 * np.clip(np.arange(n) - 30, 0, None)[:, None]
        + rng.normal(0, 0.0003, (n, batches))
    )
    int4[30] -= 0.02
    columns: dict[str, object] = {
        "step": steps, "tokens_seen": steps * 100, "duplicate_of": [None] * n,
        "fp32_batch_nll_nats": fp32.tolist(), "int4_gap": np.zeros(n), "int8_gap": np.zeros(n),
        "int4_batch_nll_nats": int4.tolist(), "int8_batch_nll_nats": (fp32 - 0.01 * np.arange(n)[:, None]).tolist(),
    }  # fmt: skip
    return pl.DataFrame(columns, schema_overrides={"duplicate_of": pl.String})


def test_every_variant_has_its_own_decision_and_the_headline_stands_first() -> None:
    entry = shipping_decision(decisions_of(table()), "int4")
    written = to_json(entry)
    assert written["best_step"] == 300
    assert written["by_variant"]["int8"]["best_step"] == 390
    assert written["by_variant"]["int4"]["regret_of_last"]["estimate"] > 0.03
    assert written["tokens_saved"] == pytest.approx(1 - 300 / 390)
    assert "300" in written["sentence"]
    assert from_json(ShippingDecision, json.loads(json.dumps(written))) == entry
    assert shipping_decision({}, None) is None


def test_a_run_whose_steps_restart_is_not_decided() -> None:
    steps = np.concatenate([np.arange(20), np.arange(20)])
    entry = shipping_decision(decisions_of(table(step=steps)), "int4")
    written = to_json(entry)
    assert "best_step" not in written
    assert "stage" in written["reason"]
    assert from_json(ShippingDecision, json.loads(json.dumps(written))) == entry


def test_a_duplicate_is_no_candidate_and_unknown_tokens_are_steps() -> None:
    doubled = table().with_columns(
        duplicate_of=pl.Series(["step000000300" if at == 39 else None for at in range(40)], dtype=pl.String),
        tokens_seen=pl.lit(None, dtype=pl.Int64),
    )
    found = to_json(decisions_of(doubled)["int4"])
    assert found["n_checkpoints"] == 39
    assert found["regret_of_last"]["step"] == 380
    assert found["tokens_saved"] == pytest.approx(1 - 300 / 390)


def test_the_sequences_are_the_unit_where_every_checkpoint_has_them() -> None:
    batches = table()
    assert to_json(decisions_of(batches)["int4"])["unit"] == "batch"
    rng = np.random.default_rng(1)
    for name in ("fp32", "int4", "int8"):
        mean = np.array(batches[f"{name}_batch_nll_nats"].to_list())
        noise = rng.normal(0, 0.001, (*mean.shape, 4))
        losses = mean[..., None] + noise - noise.mean(axis=-1, keepdims=True)
        batches = batches.with_columns(
            pl.Series(f"{name}_sequence_nll_nats", losses.reshape(40, -1).tolist())
        )
    found = decisions_of(batches)
    assert to_json(found["int4"])["unit"] == "sequence"
    assert to_json(found["int4"])["n_units"] == 64
    assert to_json(found["int4"])["best_step"] == 300
    older = batches.with_columns(
        int4_sequence_nll_nats=pl.when(pl.col("step") == 50)
        .then(None)
        .otherwise(pl.col("int4_sequence_nll_nats"))
    )
    mixed = decisions_of(older)
    assert to_json(mixed["int4"])["unit"] == "batch"
    assert to_json(mixed["int8"])["unit"] == "sequence"


def test_a_tolerance_and_a_level_of_ones_own() -> None:
    usual, loose = (
        to_json(decisions_of(table(), each)["int4"]) for each in (DecisionSettings(), DecisionSettings(0.05))
    )
    strict = to_json(decisions_of(table(), DecisionSettings(level=0.6))["int4"])
    assert set(usual["good_enough"]) < set(loose["good_enough"])
    assert usual["maybe_best"] == loose["maybe_best"]
    assert strict["regret_of_last"]["upper"] < usual["regret_of_last"]["upper"]
    assert (loose["tolerance_nats"], strict["level"]) == (0.05, 0.6)
    for wrong in ({"tolerance_nats": -0.1}, {"tolerance_nats": float("nan")}, {"level": 1.0}, {"level": 0.2}):
        with pytest.raises(UsageError, match=next(iter(wrong)).split("_")[0]):
            DecisionSettings(**wrong)


def test_a_reduced_folder_is_decided_anew_and_says_so(tmp_path: Path) -> None:
    folder, buffer = RunFolder(str(tmp_path)), io.BytesIO()
    assert redecide(folder) == []  # nothing was reduced
    table().write_parquet(buffer)
    folder.results.write_table("trajectory.parquet", buffer.getvalue())
    entry = shipping_decision(decisions_of(table()), "int4")
    assert entry is not None
    write_report(folder, replace(synthetic.report(missing=["step9"]), decision=entry))
    assert redecide(folder) == [entry.headline.sentence]
    redecide(folder, tolerance_nats=0.05)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["missing"] == ["step9"]
    assert (
        kept["decision"]["tolerance_nats"] == kept["decision"]["by_variant"]["int8"]["tolerance_nats"] == 0.05
    )
    redecide(folder, level=0.9)
    kept = json.loads((tmp_path / "report.json").read_text())["decision"]
    assert (kept["tolerance_nats"], kept["level"]) == (0.05, 0.9)


def test_any_table_is_decided_as_its_report_is(tmp_path: Path) -> None:
    losses = table()
    means = {
        f"{name}_nll_nats": np.array(losses[f"{name}_batch_nll_nats"].to_list()).mean(axis=1)
        for name in ("fp32", "int4")
    }
    losses.with_columns(**means).drop("int4_gap", "int8_gap", "int8_batch_nll_nats").write_parquet(
        tmp_path / "t.parquet"
    )
    found = CliRunner().invoke(main, ["phases", str(tmp_path / "t.parquet"), "--json", "--tolerance", "0.3"])
    assert found.exit_code == 0, found.output
    decision = json.loads(found.output)["decision"]
    expected = shipping_decision(decisions_of(losses, DecisionSettings(0.3), variants=["int4"]), "int4")
    assert decision == to_json(expected)
    losses.with_columns(**means).select("step", *means).write_csv(tmp_path / "t.csv")
    said = CliRunner().invoke(main, ["phases", str(tmp_path / "t.csv")])
    assert "no losses per sequence or batch" in said.output.replace("\n", " ").replace("  ", " ")
