"""What to ship, from the table of a run."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.trajectory.shipping import decision_entry, decisions_of


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
    entry = decision_entry(decisions_of(table()), "int4")
    assert entry is not None
    assert entry["best_step"] == 300
    assert entry["by_variant"]["int8"]["best_step"] == 390
    assert entry["by_variant"]["int4"]["regret_of_last"]["estimate"] > 0.03
    assert entry["tokens_saved"] == pytest.approx(1 - 300 / 390)
    assert "300" in entry["sentence"]
    assert decision_entry({}, None) is None


def test_a_run_whose_steps_restart_is_not_decided() -> None:
    steps = np.concatenate([np.arange(20), np.arange(20)])
    entry = decision_entry(decisions_of(table(step=steps)), "int4")
    assert entry is not None
    assert "best_step" not in entry
    assert "stage" in entry["reason"]


def test_a_duplicate_is_no_candidate_and_unknown_tokens_are_steps() -> None:
    doubled = table().with_columns(
        duplicate_of=pl.Series(["step000000300" if at == 39 else None for at in range(40)], dtype=pl.String),
        tokens_seen=pl.lit(None, dtype=pl.Int64),
    )
    found = decisions_of(doubled)["int4"].to_json()
    assert found["n_checkpoints"] == 39
    assert found["regret_of_last"]["step"] == 380
    assert found["tokens_saved"] == pytest.approx(1 - 300 / 390)
