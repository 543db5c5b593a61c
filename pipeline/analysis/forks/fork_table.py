"""The table of a fork experiment: every probe of every run, and the arrays for the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.analysis.statistics.bootstrap import paired_gap_se, text_blocks
from pipeline.analysis.statistics.curves import FP32, FloatArray, gap_from_nll
from pipeline.analysis.statistics.mechanism_factors import (
    Columns,
    ControlledLoss,
    factor_columns,
    noise_columns,
)
from pipeline.runs.control_column import CONTROLS, ERROR_SIZE
from pipeline.runs.shard import Shard
from pipeline.train.arms import REWARM
from pipeline.train.schedules import ComparedPhase, schedules

NOT_IN_TABLE = ("suite", "revision", "wall_s", "probe_s", "device")
"""Columns of the shards that are left out: equal in all rows, or different in a repetition of the experiment."""

UNSETTLED = ("start", REWARM)
"""Phases before the schedule takes effect."""


@dataclass(frozen=True, eq=False)
class ArmRuns:
    """The runs of one arm under one variant and one set of weights, on common probe steps."""

    label: str
    compared: ComparedPhase | None
    """The compared phase; None = every probe after the start."""
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    phases: tuple[str, ...]
    """Phase label at each step."""
    values: FloatArray
    """(quantities, runs, steps): gap, loss in full precision and of the quantized model, which is deployed; NaN after
    a run has diverged."""
    batches: FloatArray
    """(2, runs, steps, batches): these losses on equally long batches, the same for all."""

    @property
    def gap(self) -> FloatArray:
        """Gap of the quantized model, (runs, steps)."""
        return self.values[0]


def fork_table(shards: Sequence[Shard]) -> pl.DataFrame:
    """One row per run, probe step, set of weights and variant, runs in the order given.

    Columns as in the shards, without times and devices (so that equal experiments give equal tables), with ``gap_se``,
    the paired standard error of the gap over evaluation batches.
    """
    frames = [pl.DataFrame(pl.from_arrow(shard.table)) for shard in shards]
    table = pl.concat(frames, how="diagonal")  # some runs may have columns of further measurements
    key = ["run_id", "step", "weights"]
    baseline = table.filter(pl.col("variant") == FP32).select(*key, baseline="batch_nll_nats")
    joined = table.join(baseline, on=key, how="left", validate="m:1", maintain_order="left")
    own = np.array(joined["batch_nll_nats"].to_list(), dtype=float)
    other = np.array(joined["baseline"].to_list(), dtype=float)
    with np.errstate(invalid="ignore", over="ignore"):
        gap_se = paired_gap_se(other, own)
    joined = joined.drop(*NOT_IN_TABLE, "baseline").insert_column(-1, pl.Series("gap_se", gap_se))
    return _with_factors(joined, key) if CONTROLS in joined.columns else joined


def _with_factors(table: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """``table`` with the columns of ``statistics.mechanism_factors`` in place of the controls' losses."""
    rows = table.select(*key, "variant", "nll_nats", "batch_nll_nats", CONTROLS, ERROR_SIZE).to_dicts()
    fp32 = {tuple(row[name] for name in key): row for row in rows if row["variant"] == FP32}
    found: list[Columns] = []
    for row in rows:
        loss = ControlledLoss.of(row, fp32[tuple(row[name] for name in key)])
        if loss is None:
            found.append({})
        else:
            found.append(
                noise_columns(loss) if row["variant"] == FP32 else factor_columns(loss, row[ERROR_SIZE])
            )
    names = dict.fromkeys(name for columns in found for name in columns)
    factors = [pl.Series(name, [columns.get(name) for columns in found], dtype=pl.Float64) for name in names]
    return table.drop(CONTROLS, ERROR_SIZE).with_columns(factors)


def arm_runs(table: pl.DataFrame, arm: str, variant: str, weights: str) -> ArmRuns:
    """The runs of ``arm`` as arrays. A run that diverged has NaN from there on.

    Raises UsageError if its schedule is not registered, such as one of a missing plug-in.
    """
    rows = table.filter((pl.col("arm") == arm) & (pl.col("weights") == weights))
    steps = sorted(table["step"].unique().to_list())
    seeds = tuple(sorted(rows["seed"].unique().to_list()))
    values = np.full((3, len(seeds), len(steps)), np.nan)
    batches = np.full((2, len(seeds), len(steps), len(table["batch_nll_nats"][0])), np.nan)
    place = {step: index for index, step in enumerate(steps)}
    phases = dict.fromkeys(steps, "")
    for row in rows.iter_rows(named=True):
        at = seeds.index(row["seed"]), place[row["step"]]
        if row["variant"] == FP32:
            values[1, *at], batches[0, *at] = row["nll_nats"], row["batch_nll_nats"]
        if row["variant"] == variant:
            values[0, *at], values[2, *at], batches[1, *at] = (
                row["gap"],
                row["nll_nats"],
                row["batch_nll_nats"],
            )
        phases[row["step"]] = row["phase_label"]
    return ArmRuns(
        label=arm,
        compared=schedules.find(rows["schedule"][0]).compared,
        seeds=seeds,
        steps=tuple(steps),
        phases=tuple(phases[step] for step in steps),
        values=values,
        batches=batches,
    )


def started(runs: ArmRuns) -> NDArray[np.bool_]:
    """Probes after the start and the re-warm-up, (steps,) bool."""
    return np.asarray(~np.isin(np.array(runs.phases), [*UNSETTLED, ""]))


def compared_steps(runs: ArmRuns) -> NDArray[np.bool_]:
    """Compared probes of an arm, (steps,) bool: those of its compared phase, else all after the start."""
    return np.asarray(np.array(runs.phases) == runs.compared.phase) if runs.compared else started(runs)


def at_end(steps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The last of the chosen ``steps`` only, because the end of a run is deployed."""
    return np.asarray(np.arange(len(steps)) == np.flatnonzero(steps).max(initial=-1))


def leave_out_text(runs: ArmRuns) -> list[ArmRuns]:
    """``runs`` without one block of evaluation batches, for every block; empty for one batch."""
    n_batches = runs.batches.shape[-1]
    if n_batches < 2:
        return []
    without = (np.delete(runs.batches, block, axis=-1).mean(axis=-1) for block in text_blocks(n_batches))
    return [replace(runs, values=np.stack([gap_from_nll(nll, fp32), fp32, nll])) for fp32, nll in without]


def values_at(values: FloatArray, steps: NDArray[np.bool_]) -> FloatArray:
    """(runs, steps) at ``steps``; NaN if there are none because every run diverged before the first."""
    return values[:, steps] if steps.any() else np.full((len(values), 1), np.nan)
