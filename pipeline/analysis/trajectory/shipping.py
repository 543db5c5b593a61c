"""Which checkpoint of an audited run to ship, per variant and in words (rule: ``analysis.decision``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.decision import DEFAULTS, Decision, DecisionSettings, Undecided, decide
from pipeline.analysis.statistics.bootstrap import BATCH_BLOCK
from pipeline.analysis.statistics.curve_tables import filled, losses_per
from pipeline.analysis.statistics.curves import FP32, NLL_SUFFIX, PER_TEXT, IntArray
from pipeline.analysis.trajectory.trajectory_table import headline_variant, measured_variants

BLOCKS = {"sequence": (2, 4, 8), "batch": (BATCH_BLOCK,)}
"""How many neighbouring pieces of text may be kept together: of sequences what their correlation asks for."""


def decisions_of(
    trajectory: pl.DataFrame,
    settings: DecisionSettings = DEFAULTS,
    *,
    variants: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Decision | Undecided]:
    """The decision under ``variants`` of a trajectory table (None: every quantized one), by column prefix.

    It rests on the losses per sequence where every row has them, else on those per batch. The table may lack
    ``tokens_seen`` and ``duplicate_of``.
    """
    steps = trajectory["step"].cast(pl.Float64).to_numpy().astype(np.int64)
    names = measured_variants(trajectory) if variants is None else list(variants)
    if np.any(np.diff(steps) <= 0):
        reason = "step numbers restart between stages: audit one stage at a time to choose a checkpoint"
        return {name: Undecided(name, reason) for name in names}
    return {name: _decision(trajectory, steps, name, settings, seed) for name in names}


def _decision(
    trajectory: pl.DataFrame, steps: IntArray, variant: str, settings: DecisionSettings, seed: int
) -> Decision | Undecided:
    duplicate, tokens = filled(trajectory, "duplicate_of"), None
    if "tokens_seen" in trajectory.columns and not trajectory["tokens_seen"].null_count():
        tokens = trajectory["tokens_seen"].cast(pl.Float64).to_numpy()
    for unit in PER_TEXT:
        losses, fp32 = (losses_per(unit, trajectory, name, "table") for name in (variant, FP32))
        if losses is None or fp32 is None or _lacks_rows(trajectory, unit, variant):
            continue
        return decide(
            steps,
            losses,
            fp32,
            variant=variant,
            tokens_seen=tokens,
            distinct=None if duplicate is None else ~duplicate,
            unit=unit,
            blocks=BLOCKS[unit],
            settings=settings,
            seed=seed,
        )
    return Undecided(
        variant,
        "the table has no losses per sequence or batch, without which checkpoints cannot be told apart",
    )


def _lacks_rows(trajectory: pl.DataFrame, unit: str, variant: str) -> bool:
    """Whether some row has no losses per ``unit``: it was measured before these were kept."""
    names = (f"{each}_{unit}{NLL_SUFFIX}" for each in (FP32, variant))
    return unit != "batch" and any(trajectory[name].null_count() for name in names)


def redecided(
    report: dict[str, Any],
    trajectory: pl.DataFrame,
    *,
    tolerance_nats: float | None = None,
    level: float | None = None,
) -> dict[str, Any]:
    """``report`` (the contents of report.json) with a decision under these settings, made anew where one differs from
    those that it was made with; None: as it was.
    """
    decided = report.get("decision") or {}
    was = DecisionSettings(
        decided.get("tolerance_nats", DEFAULTS.tolerance_nats), decided.get("level", DEFAULTS.level)
    )
    settings = was.changed(tolerance_nats, level)
    if settings == was:
        return report
    found = decisions_of(trajectory, settings, seed=decided.get("seed") or 0)
    return {
        **report,
        "decision": decision_entry(found, headline_variant(trajectory), decided.get("seed") or 0),
    }


def decision_entry(
    decisions: dict[str, Decision | Undecided], headline: str | None, seed: int = 0
) -> dict[str, Any] | None:
    """The ``decision`` of report.json: that of the ``headline`` variant, its sentence, all of them by variant, and the
    ``seed`` that they were made with.
    """
    if headline is None:
        return None
    each = {name: {**found.to_json(), "sentence": sentence(found)} for name, found in decisions.items()}
    return {**each[headline], "seed": seed, "by_variant": each}


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
