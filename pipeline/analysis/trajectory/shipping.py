"""Which checkpoint of an audited run to ship, per variant and in words (rule: ``analysis.decision``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from pipeline.analysis.decision import DEFAULTS, Decision, DecisionSettings, Undecided, decide
from pipeline.analysis.statistics.bootstrap import BATCH_BLOCK
from pipeline.analysis.statistics.curve_tables import filled, losses_per
from pipeline.analysis.statistics.curves import FP32, NLL_SUFFIX, PER_TEXT, IntArray
from pipeline.analysis.trajectory.refinement import Refinement
from pipeline.analysis.trajectory.trajectory_table import measured_variants
from pipeline.base.typed_json import INLINE, UNLESS_NONE
from pipeline.spec import variant_label

BLOCKS = {"sequence": (2, 4, 8), "batch": (BATCH_BLOCK,)}
"""How many neighbouring pieces of text may be kept together: of sequences what their correlation asks for."""


@dataclass(frozen=True)
class VariantDecision:
    """The decision under one variant, and in one sentence."""

    found: Decision | Undecided = field(metadata=INLINE)
    sentence: str


@dataclass(frozen=True)
class ShippingDecision:
    """``decision`` of report.json: that of the variant that the report speaks of, and of all."""

    headline: VariantDecision = field(metadata=INLINE)
    seed: int = 0
    by_variant: dict[str, VariantDecision] = field(default_factory=dict)
    """By column prefix."""
    refined: Refinement | None = field(default=None, metadata=UNLESS_NONE)

    @property
    def settings(self) -> DecisionSettings:
        """The settings that it was made with; the usual ones where nothing could be decided."""
        found = self.headline.found
        return (
            DecisionSettings(found.tolerance_nats, found.level) if isinstance(found, Decision) else DEFAULTS
        )

    def refine(self, found: Refinement) -> ShippingDecision:
        """The same with what measuring again found."""
        told = f"{self.headline.sentence} {found.sentence}"
        return replace(self, headline=replace(self.headline, sentence=told), refined=found)


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


def shipping_decision(
    decisions: dict[str, Decision | Undecided],
    headline: str | None,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
) -> ShippingDecision | None:
    """``decisions``: by column prefix, made with ``seed``; None without a ``headline`` variant.

    ``names``: column prefix -> name of the variants for the sentences.
    """
    if headline is None:
        return None
    each = {
        name: VariantDecision(found, sentence(found, variant_label(name, names)))
        for name, found in decisions.items()
    }
    return ShippingDecision(each[headline], seed, each)


def sentence(found: Decision | Undecided, name: str) -> str:
    """The decision in one sentence; ``name``: label of the variant."""
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
