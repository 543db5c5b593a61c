"""The columns that controls add to the trajectory table, and the table of layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from pipeline.analysis.statistics.curves import FP32
from pipeline.analysis.statistics.mechanism_factors import (
    Columns,
    ControlledLoss,
    additivity,
    factor_columns,
    layer_columns,
    noise_columns,
)
from pipeline.measurements import squared_error
from pipeline.runs.control_column import CONTROLS
from pipeline.runs.shard import Shard
from pipeline.spec import column_of

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""The number of a matrix' layer is the first in its dotted path."""

Row = dict[str, Any]


def mechanism_columns(shards: Sequence[Shard]) -> list[pl.Series]:
    """One value per shard of ``<v>_damage``, ``<v>_sensitivity`` and so on (``mechanism_factors``), each with its error
    ``<v>_..._se``: null where a shard has no controls of that variant, NaN where a loss is not finite.
    """
    found = [_of_shard(_rows(shard)) for shard in shards]
    names = dict.fromkeys(name for columns in found for name in columns)
    return [pl.Series(name, [columns.get(name) for columns in found], dtype=pl.Float64) for name in names]


def layer_table(shards: Sequence[Shard]) -> pl.DataFrame | None:
    """One row per shard, variant and layer that was quantized alone; None where none was.

    Columns: key, step, variant, layer, weight_share (of the sum of squares of all weights that the variant quantizes),
    and those of ``mechanism_factors.layer_columns``, all of that layer alone.
    """
    found = [
        {"key": shard.key, "step": shard.table["step"][0].as_py(), "variant": variant, **columns}
        for shard in shards
        for variant, row, fp32 in _with_controls(_rows(shard))
        for columns in _layers(row, fp32)
    ]
    return pl.DataFrame(found, infer_schema_length=None) if found else None


def _of_shard(rows: Mapping[str, Row]) -> Columns:
    columns: Columns = {}
    for variant, row, fp32 in _with_controls(rows):
        together = ControlledLoss.of(row, fp32)
        if together is None:
            continue
        own = factor_columns(together, squared_error(row["tensors"]))
        alone = [each for layer in _layer_numbers(row) if (each := ControlledLoss.of(row, fp32, layer))]
        if alone:
            own |= additivity(alone, together)
        columns |= {f"{column_of(variant)}_{name}": value for name, value in own.items()}
    if rows and (noise := ControlledLoss.of(rows[FP32], rows[FP32])) is not None:
        columns |= {f"{FP32}_{name}": value for name, value in noise_columns(noise).items()}
    return columns


def _layers(row: Row, fp32: Row) -> list[dict[str, Any]]:
    """A row of the table for each layer of ``row`` that was quantized alone."""
    found = []
    total = _squares(row["tensors"])
    for layer in _layer_numbers(row):
        alone = ControlledLoss.of(row, fp32, layer)
        inside = [each for each in row["tensors"] if _layer_of(each["name"]) == layer]
        assert alone is not None
        columns = layer_columns(alone, squared_error(inside))
        found.append({"layer": layer, "weight_share": _squares(inside) / total if total else None, **columns})
    return found


def _rows(shard: Shard) -> dict[str, Row]:
    """Those of the shard by variant; none where it has no controls."""
    rows = shard.rows("nll_nats", "batch_nll_nats", "tensors", CONTROLS)
    return rows if CONTROLS in shard.table.column_names else {}


def _with_controls(rows: Mapping[str, Row]) -> list[tuple[str, Row, Row]]:
    """Every quantized variant that has controls, its row and that of fp32."""
    return [(name, row, rows[FP32]) for name, row in rows.items() if name != FP32 and row[CONTROLS]]


def _layer_numbers(row: Row) -> list[int]:
    return sorted({entry["layer"] for entry in row[CONTROLS] if entry["layer"] is not None})


def _layer_of(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def _squares(tensors: Sequence[Mapping[str, Any]]) -> float:
    """The sum of the squares of all weights."""
    return float(sum(each["n"] * (each["std"] ** 2 + each["mean"] ** 2) for each in tensors))
