"""The column ``controls``: what a checkpoint lost under each control of a row's variant, batch by batch.

It is there where a probe was asked for the mechanism of some variants (``ProbeSpec.mechanism``), with null in the rows
of others; the row of fp32 has the controls that no quantizer enters. Batches are those of ``batch_nll_nats``, so every
difference of two losses is paired. A run of a fork has ``error_size`` beside it, as its rows list no tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

CONTROLS, ERROR_SIZE = "controls", "error_size"

ENTRY = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("layer", pa.int64()),
        pa.field("batch_nll_nats", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Fields of a ``Control`` (``pipeline.quantize.controls``) and the mean loss of each batch, all NaN where a logit was
not finite."""

FIELDS = (pa.field(CONTROLS, pa.list_(ENTRY)), pa.field(ERROR_SIZE, pa.float64()))
"""Columns of a shard that its rows may have beside those of its measurements."""

Entry = dict[str, Any]
Row = dict[str, Any]


def joined(there: Sequence[Entry] | None, now: Sequence[Entry]) -> list[Entry]:
    """The controls ``there``, as they are, and those of ``now`` that are not among them."""
    known = {_which(entry) for entry in there or ()}
    return [*(there or ()), *(entry for entry in now if _which(entry) not in known)]


def lacking(table: pa.Table, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the variants whose mechanism the probe with the settings ``config`` is to give that lack controls."""
    wanted = tuple(config.get("mechanism", ()))
    if not wanted:
        return ()
    if CONTROLS not in table.column_names:
        return wanted
    layers: dict[str, bool] = {}
    for variant, entries in zip(table["variant"].to_pylist(), table[CONTROLS].to_pylist(), strict=True):
        if entries:
            layers[variant] = any(entry["layer"] is not None for entry in entries)
    if "fp32" not in layers:
        return wanted
    by_layer = config.get("by_layer", False)
    return tuple(name for name in wanted if name not in layers or (by_layer and not layers[name]))


def wrong_controls(rows: Iterable[Row], probe: Mapping[str, Any]) -> str:
    """Fault of the controls of ``rows``, compared with the settings of their probe; empty if there is none."""
    batches = probe["shape"].get("batches", 32)
    promised = {"fp32", *probe["mechanism"]} if probe.get("mechanism") else set()
    for row in rows:
        entries, name = row.get(CONTROLS), row["variant"]
        if entries is None:
            if name in promised:
                return f"{name} has no controls, which it was to have"
            continue
        if len({_which(entry) for entry in entries}) != len(entries):
            return f"a control of {name} is there twice"
        for entry in entries:
            losses = entry["batch_nll_nats"]
            if losses is None or len(losses) != batches or None in losses:
                count = len(losses or ())
                return f"a control of {name} has {count} losses of batches or an empty one, wanted {batches}"
    return ""


def _which(entry: Entry) -> tuple[Any, ...]:
    return entry["kind"], entry["amount"], entry["seed"], entry["layer"]
