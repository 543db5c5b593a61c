"""The column ``swaps``: what a checkpoint lost under the errors of another one's weights (``--swap``).

It is in the shards of the two steps of a swap, with null in the rows of variants that were not swapped. Batches are
those of ``batch_nll_nats``, so every difference of two losses is paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

SWAPS = "swaps"

ENTRY = pa.struct(
    [
        pa.field("error_step", pa.int64(), nullable=False),
        pa.field("error_sha256", pa.string(), nullable=False),
        pa.field("batch_nll_nats", pa.list_(pa.float64()), nullable=False),
    ]
)
"""The checkpoint whose errors they are, and the mean loss of each batch, all NaN where a logit was not finite."""

FIELD = pa.field(SWAPS, pa.list_(ENTRY))

Entry = dict[str, Any]


def joined(there: Sequence[Entry] | None, now: Sequence[Entry]) -> list[Entry]:
    """The entries ``now``, and those of ``there`` with the errors of other steps."""
    steps = {entry["error_step"] for entry in now}
    return [*(entry for entry in there or () if entry["error_step"] not in steps), *now]


def lacking(table: pa.Table, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the variants to swap, by the settings ``config`` of a probe, that lack the wanted step's errors."""
    wanted = tuple(config.get("swapped", ()))
    if not wanted or SWAPS not in table.column_names:
        return wanted
    (step,) = config["swap"]
    there = {
        variant
        for variant, entries in zip(table["variant"].to_pylist(), table[SWAPS].to_pylist(), strict=True)
        if any(entry["error_step"] == step for entry in entries or ())
    }
    return tuple(name for name in wanted if name not in there)


def wrong_swaps(rows: Iterable[Mapping[str, Any]], batches: int) -> str:
    """Fault of the swaps of ``rows``; empty if there is none."""
    for row in rows:
        for entry in row.get(SWAPS) or ():
            losses = entry["batch_nll_nats"]
            if losses is None or len(losses) != batches or None in losses:
                return (
                    f"a swap of {row['variant']} has {len(losses or ())} losses of batches, wanted {batches}"
                )
    return ""
