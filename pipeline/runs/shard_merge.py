"""Add variants and measurements to a shard, paired with its own fp32 row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pipeline.base.english import counted
from pipeline.measurements import installed, score_columns, tensor_columns
from pipeline.runs.control_column import CONTROLS, Entry, joined
from pipeline.runs.shard import Shard
from pipeline.runs.swap_column import SWAPS
from pipeline.runs.swap_column import joined as joined_swaps

AGREE_NATS = 1e-6
"""Largest difference of losses that are measured again, nats: the last bits of sums depend on the number of
variants that are measured together, and on the device."""

Row = dict[str, Any]


def disagreement(there: Shard, rows: Sequence[Row]) -> str:
    """Why the new ``rows`` do not match those of the shard ``there``; empty if they do.

    Every variant in both, fp32 always, must have the same weights, tokens and losses, because gaps of added
    variants are computed from the existing fp32 row.
    """
    old = {row["variant"]: row for row in there.table.to_pylist()}
    both = [(old[row["variant"]], row) for row in rows if row["variant"] in old]
    if "fp32" not in (row["variant"] for _, row in both):
        return "it has no fp32 row"
    for before, now in both:
        name = now["variant"]
        for column in ("weights_sha256", "n_tokens"):
            if before[column] != now[column]:
                return f"{column} of {name} was {before[column]}, now {now[column]}"
        if len(before["batch_nll_nats"]) != len(now["batch_nll_nats"]):
            return f"{name} had {counted(len(before['batch_nll_nats']), 'batch')}, now {len(now['batch_nll_nats'])}"
        losses = zip(before["batch_nll_nats"], now["batch_nll_nats"], strict=True)
        if not all(_agree(*pair) for pair in losses):
            return f"the loss of {name} was {before['nll_nats']!r} nats, now {now['nll_nats']!r}"
        if [tensor["name"] for tensor in before["tensors"]] != [tensor["name"] for tensor in now["tensors"]]:
            return f"the quantized tensors of {name} have other names"
    return ""


def _agree(before: float, now: float) -> bool:
    if not (math.isfinite(before) and math.isfinite(now)):
        return repr(before) == repr(now)
    return abs(before - now) <= AGREE_NATS


def merged(
    there: Shard,
    rows: Sequence[Row],
    measurements: Iterable[str],
    identity: Mapping[str, Any],
    *,
    controls: Mapping[str, Sequence[Entry]] = MappingProxyType({}),
    swaps: Mapping[str, Sequence[Entry]] = MappingProxyType({}),
) -> tuple[list[Row], dict[str, tuple[str, ...]]]:
    """All rows, and the measurements of each variant; the values of ``there`` stay unchanged.

    ``rows`` are new, have ``measurements`` and match ``there``; so are ``controls``
    and ``swaps``, by variant. ``identity`` has the
    columns that identify the checkpoint.
    """
    now = {row["variant"]: row for row in rows}
    names = tuple(measurements)
    found: list[Row] = []
    measured = dict(there.measured)
    for before in there.table.to_pylist():
        variant = before["variant"]
        row = before | identity
        if variant in now:
            added = installed(name for name in names if name not in there.measured[variant])
            row |= {column.name: now[variant][column.name] for column in score_columns(added)}
            fields = [column.name for column in tensor_columns(added)]
            row["tensors"] = [
                {**old, **{field: new[field] for field in fields}}
                for old, new in zip(before["tensors"], now[variant]["tensors"], strict=True)
            ]
            measured[variant] = (*there.measured[variant], *added)
        if variant in controls:
            row[CONTROLS] = joined(row.get(CONTROLS), controls[variant])
        if variant in swaps:
            row[SWAPS] = joined_swaps(row.get(SWAPS), swaps[variant])
        found.append(row)
    for variant, row in now.items():
        if variant not in there.measured:
            found.append(row)
            measured[variant] = names
    return found, measured
