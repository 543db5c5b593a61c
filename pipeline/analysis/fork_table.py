"""The table of a fork experiment: every probe of every run, and what the statistics take from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.analysis.bootstrap import paired_gap_se
from pipeline.analysis.curves import FloatArray
from pipeline.shards import Shard

NOT_IN_TABLE = ("suite", "revision", "batch_nll_nats", "wall_s", "probe_s", "device")
"""Columns of the shards that are the same for all rows, or that another run of the same experiment would change."""

UNSETTLED = ("start", "rewarm")
"""Phases in which no schedule has had its say."""


@dataclass(frozen=True, eq=False)
class ArmRuns:
    """The runs of one arm under one variant and one set of weights, on common probe steps."""

    label: str
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    phases: tuple[str, ...]
    """Phase label at each step."""
    gap: FloatArray
    """(runs, steps); NaN after a run has diverged."""
    fp32_nll_nats: FloatArray
    """(runs, steps)"""
    variant_nll_nats: FloatArray
    """(runs, steps): what the quantized model itself loses, which is what is deployed"""
    diverged: tuple[bool, ...]


def fork_table(shards: Sequence[Shard]) -> pl.DataFrame:
    """One row per run, probe step, set of weights and variant, runs in the order given.

    Columns as in the shards, without times and devices (so that equal experiments give equal tables), with ``gap_se``,
    the paired standard error of the gap over evaluation batches.
    """
    frames = [pl.DataFrame(pl.from_arrow(shard.table)) for shard in shards]
    table = pl.concat(frames)
    key = ["run_id", "step", "weights"]
    baseline = table.filter(pl.col("variant") == "fp32").select(*key, baseline="batch_nll_nats")
    joined = table.join(baseline, on=key, how="left", validate="m:1", maintain_order="left")
    own = np.array(joined["batch_nll_nats"].to_list(), dtype=float)
    other = np.array(joined["baseline"].to_list(), dtype=float)
    with np.errstate(invalid="ignore", over="ignore"):
        gap_se = paired_gap_se(other, own)
    return joined.drop(*NOT_IN_TABLE, "baseline").insert_column(-1, pl.Series("gap_se", gap_se))


def arm_runs(table: pl.DataFrame, arm: str, variant: str, weights: str) -> ArmRuns:
    """The runs of ``arm`` as arrays. A run that diverged has NaN from there on."""
    rows = table.filter((pl.col("arm") == arm) & (pl.col("weights") == weights))
    steps = sorted(table["step"].unique().to_list())
    seeds = tuple(sorted(rows["seed"].unique().to_list()))
    gap, nll, fp32_nll = np.full((3, len(seeds), len(steps)), np.nan)
    place = {step: index for index, step in enumerate(steps)}
    phases = dict.fromkeys(steps, "")
    diverged = dict.fromkeys(seeds, False)
    for row in rows.iter_rows(named=True):
        run, column = seeds.index(row["seed"]), place[row["step"]]
        if row["variant"] == variant:
            gap[run, column], nll[run, column] = row["gap"], row["nll_nats"]
        if row["variant"] == "fp32":
            fp32_nll[run, column] = row["nll_nats"]
        phases[row["step"]] = row["phase_label"]
        diverged[row["seed"]] = row["status"] == "diverged"
    return ArmRuns(
        label=arm,
        seeds=seeds,
        steps=tuple(steps),
        phases=tuple(phases[step] for step in steps),
        gap=gap,
        fp32_nll_nats=fp32_nll,
        variant_nll_nats=nll,
        diverged=tuple(diverged[seed] for seed in seeds),
    )


def compared_steps(runs: ArmRuns) -> NDArray[np.bool_]:
    """Probes of an arm that are compared, (steps,) bool: of OLI the settled cool ones, else all after the start."""
    labels = np.array(runs.phases)
    if "settled" in runs.phases:
        return np.asarray(labels == "settled")
    return np.asarray(~np.isin(labels, [*UNSETTLED, ""]))
