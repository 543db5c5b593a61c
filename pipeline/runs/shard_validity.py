"""Check that the rows of a shard match its metadata and are consistent with each other.

A checksum shows that a file is as it was written; this check shows that its contents are a measurement. A number
may be NaN or infinite if a checkpoint or run has diverged, and is never null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.measurements.loss import perplexity
from pipeline.runs.control_column import wrong_controls
from pipeline.runs.swap_column import wrong_swaps

RELATIVE, ABSOLUTE = 1e-9, 1e-12
"""Tolerances between numbers of a row that follow from each other: the last bits of float64 sums."""

Row = dict[str, Any]


Config = Mapping[str, Any]
Measured = Mapping[str, tuple[str, ...]]
WhatIsWrong = Callable[[pa.Table, str, Config, Measured], str]
"""Called with table, key, settings and the stated measurements of each variant; returns the fault of the rows,
empty if there is none."""


def nothing_is_wrong(table: pa.Table, key: str, config: Config, measured: Measured) -> str:
    """A :data:`WhatIsWrong` that accepts all rows."""
    del table, key, config, measured
    return ""


def wrong_audit(table: pa.Table, key: str, config: Config, measured: Measured) -> str:
    """The :data:`WhatIsWrong` for an audit's shard; ``config``: settings of the probe."""
    rows = table.drop_columns(["tensors"]).to_pylist()
    return (
        _wrong_promise(config, measured)
        or _wrong_checkpoint(rows, key, measured)
        or _first(_wrong_row(row, config["shape"]) for row in rows)
        or wrong_controls(rows, config)
        or wrong_swaps(rows, config["shape"].get("batches", 32))
        or _wrong_tensors(table["tensors"], table["variant"].to_pylist())
    )


def wrong_fork(table: pa.Table, key: str, config: Config, measured: Measured) -> str:
    """The :data:`WhatIsWrong` for a fork's run; ``config``: settings of the experiment."""
    rows = table.to_pylist()
    return (
        _wrong_promise(config["probe"], measured)
        or _wrong_run(rows, key, config, measured)
        or _first(_wrong_row(row, config["probe"]["shape"]) for row in rows)
        or wrong_controls(rows, config["probe"])
    )


def _first(wrong: Iterable[str]) -> str:
    return next(filter(None, wrong), "")


def _wrong_promise(probe: Config, measured: Measured) -> str:
    lost = [variant for variant in ("fp32", *probe["variants"]) if variant not in measured]
    return f"it lacks {', '.join(lost)}, which its metadata lists" if lost else ""


def _wrong_variants(rows: Iterable[Row], measured: Iterable[str]) -> str:
    there, wanted = sorted(str(row["variant"]) for row in rows), sorted(measured)
    return (
        "" if there == wanted else f"its rows are of {', '.join(there)}, wanted {', '.join(wanted)} once each"
    )


def _wrong_checkpoint(rows: list[Row], key: str, measured: Iterable[str]) -> str:
    if wrong := _wrong_variants(rows, measured):
        return wrong
    for name in ("suite", "revision", "step", "weights_sha256"):
        if len({row[name] for row in rows}) != 1:
            return f"its rows differ in {name}"
    step = rows[0]["step"]
    return "" if key.endswith(f"step{step:09d}") else f"its rows are of step {step}"


def _wrong_run(rows: list[Row], key: str, config: Mapping[str, Any], measured: Iterable[str]) -> str:
    """Faults of a fork's run, which has one set of variants per probe and set of weights."""
    if {row["run_id"] for row in rows} != {key}:
        return "its rows are of another run"
    if len({row["status"] for row in rows}) != 1 or rows[0]["status"] not in ("ok", "diverged"):
        return "its status is not ok or diverged"
    steps, every = config["rates"]["steps"], config["probe_every"]
    wanted = [*range(0, steps, every), steps]
    there = list(dict.fromkeys(row["step"] for row in rows))
    if there != (wanted if rows[0]["status"] == "ok" else wanted[: len(there)]):
        return f"it has {len(there)} of {len(wanted)} probes, or others"
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["step"], row["weights"]), []).append(row)
    if set(groups) != {(step, name) for step in there for name in ("live", "ema", "lawa")}:
        return "a set of weights is missing"
    for (step, name), group in groups.items():
        if wrong := _wrong_variants(group, measured):
            return f"after {step} updates, {name}: {wrong}"
    return ""


def _wrong_row(row: Row, shape: Mapping[str, Any]) -> str:
    """Check ``row`` against the size of the evaluation and for consistency."""
    batches, sequence = shape.get("batches", 32), shape.get("seq_len", 512)
    tokens = batches * shape.get("batch_size", 4) * (sequence - 1)
    losses, name = row["batch_nll_nats"], row["variant"]
    for column in ("nll_nats", "perplexity", "n_tokens", "kl_nats_mean", "top1_agreement"):
        if row[column] is None:
            return f"{name} has no {column}"
    if row["n_tokens"] != tokens:
        return f"{name} is of {row['n_tokens']} tokens, wanted {tokens}"
    if losses is None or len(losses) != batches or None in losses:
        return f"{name} has {len(losses or ())} losses of batches or an empty one, wanted {batches}"
    sequences = row.get("sequence_nll_nats")
    if sequences is not None and not _splits(losses, sequences, shape.get("batch_size", 4)):
        return f"the losses of the batches of {name} are not the means of its sequences"
    return _wrong_scores(row)


def _splits(losses: list[float], sequences: list[float | None], batch_size: int) -> bool:
    """Whether each of ``losses`` is the mean of the next ``batch_size`` of ``sequences``."""
    if len(sequences) != len(losses) * batch_size or None in sequences:
        return False
    parts = [sequences[start : start + batch_size] for start in range(0, len(sequences), batch_size)]
    return all(_equal(loss, sum(part) / batch_size) for loss, part in zip(losses, parts, strict=True))  # type: ignore[arg-type]


def _wrong_scores(row: Row) -> str:
    losses, nll, name = row["batch_nll_nats"], row["nll_nats"], row["variant"]
    finite = all(map(math.isfinite, losses))
    if not _equal(nll, math.fsum(losses) / len(losses) if finite else math.nan):
        return f"the loss of {name} is not the mean of its batches"
    if not _equal(row["perplexity"], perplexity(nll)):
        return f"the perplexity of {name} is not that of its loss"
    if math.isfinite(row["top1_agreement"]) and not 0 <= row["top1_agreement"] <= 1:
        return f"the top-1 agreement of {name} is {row['top1_agreement']}"
    return ""


def _wrong_tensors(tensors: pa.ChunkedArray, variants: list[str]) -> str:
    """Check that every quantized matrix has one row of statistics with a unique name."""
    lists = tensors.combine_chunks()
    names = pc.list_flatten(lists).field("name").to_pylist()
    owners = pc.list_parent_indices(lists).to_pylist()
    for index, variant in enumerate(variants):
        own = [name for name, owner in zip(names, owners, strict=True) if owner == index]
        if not own or None in own or len(set(own)) != len(own):
            return f"{variant} has no tensors, or one of them twice"
    return ""


def _equal(there: float, wanted: float) -> bool:
    if math.isfinite(there) and math.isfinite(wanted):
        return math.isclose(there, wanted, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return math.isfinite(there) == math.isfinite(wanted)
