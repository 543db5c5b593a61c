"""What to ship of an audited run, per variant and in words (the rule: ``analysis.decision``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.decision import Decision, Undecided, decide
from pipeline.analysis.statistics.curves import BATCH_SUFFIX, FloatArray
from pipeline.analysis.trajectory.trajectory_table import measured_variants


def decisions_of(trajectory: pl.DataFrame, *, seed: int = 0) -> dict[str, Decision | Undecided]:
    """The decision under every quantized variant of a trajectory table, by column prefix."""
    steps = trajectory["step"].to_numpy()
    variants = measured_variants(trajectory)
    if np.any(np.diff(steps) <= 0):
        reason = "step numbers restart between stages: audit one stage at a time to choose a checkpoint"
        return {variant: Undecided(variant, reason) for variant in variants}
    tokens = trajectory["tokens_seen"]
    return {
        variant: decide(
            steps,
            _losses(trajectory, variant),
            _losses(trajectory, "fp32"),
            variant=variant,
            tokens_seen=None if tokens.null_count() else tokens.to_numpy().astype(np.float64),
            distinct=trajectory["duplicate_of"].is_null().to_numpy(),
            seed=seed,
        )
        for variant in variants
    }


def decision_entry(decisions: dict[str, Decision | Undecided], headline: str | None) -> dict[str, Any] | None:
    """The ``decision`` of report.json: that of the ``headline`` variant, its sentence, and all of them by variant."""
    if headline is None:
        return None
    each = {name: {**found.to_json(), "sentence": sentence(found)} for name, found in decisions.items()}
    return {**each[headline], "by_variant": each}


def sentence(found: Decision | Undecided) -> str:
    """The decision in one sentence."""
    name = found.variant.upper() if found.variant in ("int4", "int8") else found.variant
    if isinstance(found, Undecided):
        return f"No checkpoint can be chosen for {name}: {found.reason}."
    others = len(found.maybe_best) - 1
    if others:
        are = "checkpoint" if others == 1 else "checkpoints"
        doubt = f"{others:,} more {are} from step {min(found.maybe_best):,} on cannot be told from it with this text"
    else:
        doubt = "with this text it is better than every other checkpoint"
    last = found.regret_of_last
    if last.step == found.best_step:
        return f"Ship the last checkpoint in {name}, step {found.best_step:,}; {doubt}."
    cost = f"{last.estimate:.3f} nats (at most {last.upper:.3f})"
    return f"Ship step {found.best_step:,} in {name}; {doubt}; the last checkpoint costs {cost}."


def _losses(trajectory: pl.DataFrame, variant: str) -> FloatArray:
    return np.array(trajectory[f"{variant}{BATCH_SUFFIX}"].to_list(), dtype=np.float64)
