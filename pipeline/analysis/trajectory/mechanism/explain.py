"""The mechanism of every variant that was measured with controls, from the shards of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.analysis.statistics.curves import FP32, BoolArray, FloatArray, IntArray
from pipeline.analysis.statistics.mechanism_factors import ControlledLoss
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism, explain_variant
from pipeline.analysis.trajectory.mechanism.mechanism_words import cause_sentence
from pipeline.analysis.trajectory.mechanism.trace_check import TraceCheck
from pipeline.analysis.trajectory.stages import Phase
from pipeline.measurements import squared_error
from pipeline.runs.control_column import CONTROLS
from pipeline.runs.shard import Shard
from pipeline.spec import column_of, variant_label

Row = dict[str, Any]


def read_controls(
    shards: Sequence[Shard], step: IntArray, *, duplicates: Sequence[str] = ()
) -> list[ControlLosses]:
    """Read the losses of every variant with controls, in the order of ``shards``.

    ``step``: of each shard, (T,). ``duplicates``: keys of shards with the weights of an earlier one. A shard without a
    variant's controls gives NaN.
    """
    rows = [shard.rows("nll_nats", "batch_nll_nats", "tensors", CONTROLS) for shard in shards]
    distinct = ~np.isin([shard.key for shard in shards], list(duplicates))
    variants = dict.fromkeys(name for found in rows for name, row in found.items() if row.get(CONTROLS))
    fp32_TB = np.array([found[FP32]["batch_nll_nats"] for found in rows], dtype=np.float64)
    return [_losses(name, rows, step, fp32_TB, distinct) for name in variants if name != FP32]


def explain(
    every: Sequence[ControlLosses],
    *,
    headline: str | None,
    labels: Mapping[str, str],
    phases: Sequence[Phase] = (),
    learning_rate: FloatArray | None = None,
    seed: int = 0,
    n_null: int = N_NULL,
    checks: Sequence[TraceCheck] = (),
) -> Mechanism | None:
    """``mechanism`` of report.json; None where no variant has controls.

    ``headline``: the variant that the verdict speaks of, if it has controls. ``labels``: names for readers by variant.
    ``phases``: those of the headline variant's gap, which bound the plateau of all. ``checks``: those of the trace.
    """
    if not every or np.any(np.diff(every[0].step) <= 0):
        return None
    found = {
        each.variant: explain_variant(
            each,
            label=variant_label(each.variant, labels),
            phases=phases,
            learning_rate=learning_rate,
            seed=seed,
            n_null=n_null,
        )
        for each in every
    }
    first = headline if headline in found else next(iter(found))
    sentences = {name: cause_sentence(each) for name, each in found.items()}
    return Mechanism(first, found, sentences, tuple(checks) or None)


def _losses(
    variant: str, rows: Sequence[dict[str, Row]], step: IntArray, fp32_TB: FloatArray, distinct: BoolArray
) -> ControlLosses:
    """Losses of one variant; ``rows``: those of each shard by variant, (T,)."""
    own = [found.get(variant) for found in rows]
    measured = [
        None if row is None else ControlledLoss.of(row, found[FP32])
        for row, found in zip(own, rows, strict=True)
    ]
    nothing_B = np.full(fp32_TB.shape[1], np.nan)
    nothing_SB = np.full_like(next(each for each in measured if each is not None).signs(), np.nan)
    amounts = dict.fromkeys(amount for each in measured if each is not None for amount in each.line)
    return ControlLosses(
        variant=column_of(variant),
        step=step,
        error_size=np.array([np.nan if row is None else squared_error(row["tensors"]) for row in own]),
        fp32_TB=fp32_TB,
        damage_TB=np.array([nothing_B if each is None else each.damage_B for each in measured]),
        signs_TSB=np.stack([nothing_SB if each is None else each.signs() for each in measured]),
        line_TB={
            amount: np.array([nothing_B if each is None else each.line[amount] for each in measured])
            for amount in amounts
        },
        distinct=distinct,
    )
