"""From shards to tables: one row per checkpoint, and one row per checkpoint, variant and quantized tensor.

Every sum runs in numpy in a fixed order, so that equal shards give equal tables, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.bootstrap import paired_gap_se
from pipeline.analysis.curves import Curve, FloatArray, gap_from_nll
from pipeline.shards import Shard
from pipeline.spec import Checkpoint, column_of

METRICS = (
    "nll_nats",
    "perplexity",
    "kl_nats_mean",
    "kl_nats_p50",
    "kl_nats_p99",
    "top1_agreement",
    "delta_p_rms",
)
"""Columns of a shard that become ``<variant>_<metric>`` of a quantized variant."""

FP32 = "fp32"

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
    return pl.DataFrame(pa.concat_tables(tables))


def trajectory_table(shards: Sequence[Shard], checkpoints: Sequence[Checkpoint]) -> pl.DataFrame:
    """One row per shard, in the order of ``checkpoints``, without the ``phase`` column.

    Columns: step, revision, tokens_seen, learning_rate, weights_sha256, duplicate_of, fp32_nll_nats,
    fp32_perplexity, kurtosis (mean over the quantized matrices), and for each other variant v its ``METRICS`` as
    ``<v>_<metric>``, ``<v>_gap`` = perplexity over fp32's - 1, ``<v>_gap_se`` (paired over batches),
    ``<v>_relative_error`` (mean over matrices) and ``<v>_boundary_fraction`` (share of all their weights).

    Raises a polars error where a join is not one to one.
    """
    rows = pl.DataFrame(
        pa.concat_tables(
            shard.table.drop_columns(["tensors"]).append_column(
                "key", pa.array([shard.key] * len(shard.table))
            )
            for shard in shards
        )
    )
    rows = rows.with_columns(_tensor_means(shards))
    # Who a checkpoint is comes from the plan: learning rates added to a suite since must be seen without measuring
    # it again, and duplicates are linked within the plan.
    identity = pl.DataFrame(
        [[getattr(checkpoint, name) for name in IDENTITY] for checkpoint in checkpoints],
        schema=IDENTITY,
        orient="row",
    )
    base = rows.filter(pl.col("variant") == FP32)
    table = identity.join(
        base.select("key", "weights_sha256"), on="key", how="inner", validate="1:1", maintain_order="left"
    )
    table = _join(
        table,
        base.select(
            "key", "batch_nll_nats", "kurtosis",
            fp32_nll_nats="nll_nats", fp32_perplexity="perplexity",
        ),
    )  # fmt: skip
    fp32_batches = _matrix(table["batch_nll_nats"])
    table = table.drop("batch_nll_nats")
    for variant in rows["variant"].unique(maintain_order=True):
        if variant == FP32:
            continue
        prefix = column_of(variant)
        part = rows.filter(pl.col("variant") == variant).select(
            "key", "batch_nll_nats",
            *(pl.col(metric).alias(f"{prefix}_{metric}") for metric in METRICS),
            *(pl.col(name).alias(f"{prefix}_{name}") for name in ("relative_error", "boundary_fraction")),
        )  # fmt: skip
        table = _join(table, part)
        batches = _matrix(table["batch_nll_nats"])
        gap = gap_from_nll(table[f"{prefix}_nll_nats"].to_numpy(), table["fp32_nll_nats"].to_numpy())
        table = table.drop("batch_nll_nats").with_columns(
            pl.Series(f"{prefix}_gap", gap),
            pl.Series(f"{prefix}_gap_se", paired_gap_se(fp32_batches, batches)),
        )
    first = ["step", "revision", "tokens_seen", "learning_rate", "weights_sha256", "duplicate_of"]
    return table.select(*first, pl.exclude(*first, "key"))


def batch_curve(trajectory: pl.DataFrame, shards: Sequence[Shard]) -> Curve:
    """The trajectory as a :class:`Curve` with its per-batch losses; steps must increase strictly."""
    by_step = {shard.table["step"][0].as_py(): shard for shard in shards}
    curve = Curve.from_frame(trajectory, name="trajectory")
    batches: dict[str, list[list[float]]] = {}
    for step in trajectory["step"]:
        for row in by_step[step].table.select(["variant", "batch_nll_nats"]).to_pylist():
            batches.setdefault(column_of(row["variant"]), []).append(row["batch_nll_nats"])
    matrices = {name: np.array(values, dtype=np.float64) for name, values in batches.items()}
    return Curve(
        step=curve.step,
        fp32_nll_nats=curve.fp32_nll_nats,
        variant_nll_nats=curve.variant_nll_nats,
        learning_rate=curve.learning_rate,
        kurtosis=curve.kurtosis,
        fp32_batch_nll_nats=matrices.pop(FP32),
        variant_batch_nll_nats=matrices,
        name=curve.name,
    )


def _tensor_means(shards: Sequence[Shard]) -> list[pl.Series]:
    """Per row of all shards: mean kurtosis and relative error of its matrices, boundary share of their weights.

    A matrix whose weights are all equal (zeros, at the start of some runs) has no kurtosis and is left out of its mean.
    """
    columns: dict[str, list[float | None]] = {"kurtosis": [], "relative_error": [], "boundary_fraction": []}
    for shard in shards:
        for tensors in shard.table["tensors"]:
            values = tensors.values
            n = values.field("n").to_numpy(zero_copy_only=False).astype(np.float64)
            for name, means in columns.items():
                field = values.field(name)
                if len(field) == 0 or field.null_count:
                    means.append(None)
                    continue
                numbers = field.to_numpy(zero_copy_only=False)
                if name == "kurtosis":
                    numbers = numbers[np.isfinite(numbers)]
                weights = n if name == "boundary_fraction" else None
                means.append(float(np.average(numbers, weights=weights)) if len(numbers) else None)
    return [pl.Series(name, means, dtype=pl.Float64) for name, means in columns.items()]


def _join(table: pl.DataFrame, part: pl.DataFrame) -> pl.DataFrame:
    return table.join(part, on="key", how="left", validate="1:1", maintain_order="left")


def _matrix(lists: pl.Series) -> FloatArray:
    return np.array(lists.to_list(), dtype=np.float64)
