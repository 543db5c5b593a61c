"""Make the tables from shards: one row per checkpoint, and one row per checkpoint, variant and quantized tensor.

Every sum runs in numpy in a fixed order, so that equal shards give equal tables, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.statistics.bootstrap import paired_gap_se
from pipeline.analysis.statistics.curves import FP32, FloatArray, gap_from_nll
from pipeline.measurements import Level, pool_values, score_columns, trajectory_columns, unvaried_columns
from pipeline.runs.control_column import CONTROLS
from pipeline.runs.shard import Shard
from pipeline.runs.swap_column import SWAPS
from pipeline.spec import MEASUREMENTS, Checkpoint, column_of

CORE_SCORES = frozenset(column.name for column in score_columns(MEASUREMENTS))
"""Core measurements. For fp32 the table has only the loss, because the others compare it with itself."""

NESTED = ("tensors", CONTROLS, SWAPS)
"""Columns of shards that tables are made of elsewhere."""

IDENTITY = {
    "key": pl.String, "step": pl.Int64, "revision": pl.String, "tokens_seen": pl.Int64, "learning_rate": pl.Float64,
    "duplicate_of": pl.String,
}  # fmt: skip
"""Columns that name a checkpoint, as its :class:`Checkpoint` has them."""


def tensor_table(shards: Sequence[Shard]) -> pl.DataFrame:
    """One row per step, variant and tensor, with the tensor's statistics, in shard order."""
    tables = []
    for shard in shards:
        tensors = shard.table["tensors"].combine_chunks()
        rows = pc.list_parent_indices(tensors)
        flat = pa.Table.from_struct_array(pc.list_flatten(tensors))
        for index, name in enumerate(("step", "variant")):
            flat = flat.add_column(index, name, shard.table[name].take(rows))
        tables.append(flat.add_column(0, "key", pa.array([shard.key] * len(flat), pa.string())))
    return pl.DataFrame(pa.concat_tables(tables, promote_options="default"))


def trajectory_table(shards: Sequence[Shard], checkpoints: Sequence[Checkpoint]) -> pl.DataFrame:
    """One row per shard, in the order of ``checkpoints``, without the ``phase`` column.

    Columns: step, revision, tokens_seen, learning_rate, weights_sha256, duplicate_of, those of the weights and of the
    checkpoint (kurtosis, mean over the quantized matrices), fp32_nll_nats, fp32_perplexity, fp32_batch_nll_nats,
    fp32_sequence_nll_nats (null of shards of earlier releases),
    and for each other variant v the columns of its measurements as ``<v>_<column>``, its losses per batch as
    ``<v>_batch_nll_nats``, ``<v>_gap`` = perplexity over fp32's - 1 and ``<v>_gap_se`` (paired over batches).

    Raises a polars error if a join is not one to one.
    """
    rows = _rows(shards)
    table = _checkpoints(rows, checkpoints)
    fp32_batches = _matrix(table["fp32_batch_nll_nats"])
    columns = [*_measured(rows, "token"), *_measured(rows, "tensor"), *_lists(rows)]
    for variant in rows["variant"].unique(maintain_order=True):
        if variant == FP32:
            continue
        prefix = column_of(variant)
        part = rows.filter(pl.col("variant") == variant).select(
            "key", *(pl.col(name).alias(f"{prefix}_{name}") for name in columns)
        )
        table = _join(table, part)
        batches = _matrix(table[f"{prefix}_batch_nll_nats"])
        gap = gap_from_nll(table[f"{prefix}_nll_nats"].to_numpy(), table["fp32_nll_nats"].to_numpy())
        table = table.with_columns(
            pl.Series(f"{prefix}_gap", gap),
            pl.Series(f"{prefix}_gap_se", paired_gap_se(fp32_batches, batches)),
        )
    first = ["step", "revision", "tokens_seen", "learning_rate", "weights_sha256", "duplicate_of"]
    return table.select(*first, pl.exclude(*first, "key"))


def _rows(shards: Sequence[Shard]) -> pl.DataFrame:
    """One row per shard and variant, with the shard's key and the pooled statistics of its matrices."""
    flat = (
        shard.table.drop_columns([name for name in NESTED if name in shard.table.column_names]).append_column(
            "key", pa.array([shard.key] * len(shard.table))
        )
        for shard in shards
    )
    rows = pl.DataFrame(pa.concat_tables(flat, promote_options="default"))
    return rows.with_columns(_tensor_means(shards))


def _checkpoints(rows: pl.DataFrame, checkpoints: Sequence[Checkpoint]) -> pl.DataFrame:
    """One row per shard with what names the checkpoint and what was measured in full precision.

    The plan identifies a checkpoint: learning rates that were added to a suite later must show without measuring
    again, and duplicates are linked within the plan.
    """
    identity = pl.DataFrame(
        [[getattr(checkpoint, name) for name in IDENTITY] for checkpoint in checkpoints],
        schema=IDENTITY,
        orient="row",
    )
    base = rows.filter(pl.col("variant") == FP32)
    table = identity.join(
        base.select("key", "weights_sha256"), on="key", how="inner", validate="1:1", maintain_order="left"
    )
    alone = [column.name for column in unvaried_columns() if column.name in rows.columns]
    scores = [name for name in _measured(rows, "token") if name not in CORE_SCORES]
    own = ["nll_nats", "perplexity", *scores, *_lists(rows)]
    return _join(table, base.select("key", *alone, *(pl.col(name).alias(f"fp32_{name}") for name in own)))


def _measured(rows: pl.DataFrame, level: Level) -> list[str]:
    return [column.name for column in trajectory_columns(level) if column.name in rows.columns]


def _lists(rows: pl.DataFrame) -> list[str]:
    """Losses per piece of text; shards of earlier releases have none per sequence."""
    return [name for name in ("batch_nll_nats", "sequence_nll_nats") if name in rows.columns]


def headline_variant(trajectory: pl.DataFrame) -> str | None:
    """Column prefix of the variant whose onset is looked for: int4 where there is one, else the first given."""
    variants = measured_variants(trajectory)
    return "int4" if "int4" in variants else next(iter(variants), None)


def measured_variants(trajectory: pl.DataFrame) -> list[str]:
    """Column prefixes of the quantized variants."""
    return [name.removesuffix("_gap") for name in trajectory.columns if name.endswith("_gap")]


def _tensor_means(shards: Sequence[Shard]) -> list[pl.Series]:
    """For each row of all shards, the pooled statistics of its matrices.

    A matrix whose weights are all equal (zeros, at the start of some runs) has no kurtosis and is left out of its mean.
    """
    there = {field.name for shard in shards for field in shard.table.schema.field("tensors").type.value_type}
    wanted = [
        column
        for per_variant in (False, True)
        for column in trajectory_columns("tensor", per_variant=per_variant)
        if column.name in there
    ]
    columns: dict[str, list[float | None]] = {column.name: [] for column in wanted}
    for shard in shards:
        known = {field.name for field in shard.table.schema.field("tensors").type.value_type}
        for tensors in shard.table["tensors"]:
            values = tensors.values
            n = values.field("n").to_numpy(zero_copy_only=False).astype(np.float64)
            for column in wanted:
                field = values.field(column.name) if column.name in known else None
                numbers = None if field is None or field.null_count else field.to_numpy(zero_copy_only=False)
                columns[column.name].append(None if numbers is None else pool_values(column, numbers, n))
    return [pl.Series(name, means, dtype=pl.Float64) for name, means in columns.items()]


def _join(table: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    return table.join(part, on="key", how="left", validate="1:1", maintain_order="left")


def _matrix(lists: pl.Series) -> FloatArray:
    return np.array(lists.to_list(), dtype=np.float64)
