"""The mechanism of every variant that was measured with controls, from the shards of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.analysis.statistics.curves import BoolArray, FloatArray, IntArray
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

FP32 = "fp32"


def read_controls(
    shards: Sequence[Shard], step: IntArray, *, duplicates: Sequence[str] = ()
) -> list[ControlLosses]:
    """Read the losses of every variant with controls, in the order of ``shards``.

    ``step``: of each shard, (T,). ``duplicates``: keys of shards with the weights of an earlier one. A shard without a
    variant's controls gives NaN.
    """
    rows = [_rows(shard.table) for shard in shards]
    distinct = ~np.isin([shard.key for shard in shards], list(duplicates))
    variants = dict.fromkeys(name for found in rows for name, row in found.items() if row.get(CONTROLS))
    fp32_TB = np.array([found[FP32]["batch_nll_nats"] for found in rows], dtype=np.float64)
    return [
        _losses(name, [found.get(name) for found in rows], step, fp32_TB, distinct)
        for name in variants
        if name != FP32
    ]


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


def _rows(table: pa.Table) -> dict[str, dict[str, Any]]:
    """The rows of a shard by variant."""
    names = ["variant", "batch_nll_nats", "tensors", CONTROLS]
    there = table.select([name for name in names if name in table.column_names])
    return {row["variant"]: row for row in there.to_pylist()}


def _losses(
    variant: str,
    rows: Sequence[dict[str, Any] | None],
    step: IntArray,
    fp32_TB: FloatArray,
    distinct: BoolArray,
) -> ControlLosses:
    """Losses of one variant; ``rows``: its row of each shard, (T,)."""
    whole = [_by_control(row) for row in rows]
    names = dict.fromkeys(name for found in whole for name in found)
    nothing = np.full(fp32_TB.shape[1], np.nan)

    def damage(kind: str, number: float) -> FloatArray:
        return np.array([found.get((kind, number), nothing) for found in whole]) - fp32_TB

    own_TB = np.array([nothing if row is None else row["batch_nll_nats"] for row in rows]) - fp32_TB
    seeds = sorted(number for kind, number in names if kind == "signs")
    return ControlLosses(
        variant=column_of(variant),
        step=step,
        error_size=np.array([np.nan if row is None else squared_error(row["tensors"]) for row in rows]),
        fp32_TB=fp32_TB,
        damage_TB=own_TB,
        signs_TSB=np.stack([damage("signs", seed) for seed in seeds], axis=1),
        line_TB={number: damage("line", number) for kind, number in names if kind == "line"},
        distinct=distinct,
    )


def _by_control(row: dict[str, Any] | None) -> dict[tuple[str, float], FloatArray]:
    """Losses per batch by kind and by what tells controls of a kind apart; those of single layers are left out."""
    entries = [] if row is None else row.get(CONTROLS) or []
    return {
        (entry["kind"], entry["amount"] if entry["kind"] == "line" else float(entry["seed"])): np.array(
            entry["batch_nll_nats"], dtype=np.float64
        )
        for entry in entries
        if entry["layer"] is None
    }
