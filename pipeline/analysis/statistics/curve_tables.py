"""A table as a curve; an error names the table, the column and what is wrong with it."""

from __future__ import annotations

import difflib

import numpy as np
import polars as pl

from pipeline.analysis.statistics.curves import FP32, NLL_SUFFIX, PER_TEXT, BoolArray, Curve, FloatArray
from pipeline.base.errors import UsageError


def curve_from_frame(frame: pl.DataFrame, *, name: str = "table") -> Curve:
    """Read a curve from `step`, `fp32_nll_nats`, `<variant>_nll_nats` and optional columns.

    The optional ones are `learning_rate`, `kurtosis`, `duplicate_of` (not empty = the weights of an earlier
    row) and lists of the losses per evaluation batch, `fp32_batch_nll_nats` and `<variant>_batch_nll_nats`.
    Other columns are ignored. An empty cell becomes NaN, so that its row enters no fit and is counted as left
    out (writers of csv often leave diverged losses empty); an empty step is an error. Raises UsageError for
    missing or non-numeric columns, lists of unequal length, unsorted or repeated steps, fewer than 3 rows.
    """
    for column in ("step", "fp32_nll_nats"):
        if column not in frame.columns:
            near = difflib.get_close_matches(column, frame.columns, n=1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise UsageError(f"{name}: column {column} is missing{hint}; found {', '.join(frame.columns)}")
    lists = tuple(f"_{piece}{NLL_SUFFIX}" for piece in PER_TEXT)
    losses = [c for c in frame.columns if c.endswith(NLL_SUFFIX) and not f"_{c}".endswith(lists)]
    variants = [c.removesuffix(NLL_SUFFIX) for c in losses if c != f"{FP32}{NLL_SUFFIX}"]
    if not variants:
        raise UsageError(f"{name}: no column named <variant>{NLL_SUFFIX} beside fp32_nll_nats")
    steps = _numbers(frame, "step", name)
    if not np.all(np.isfinite(steps)) or np.any(steps != np.round(steps)):
        raise UsageError(f"{name}: column step must hold whole numbers")
    return Curve(
        step=steps.astype(np.int64),
        fp32_nll_nats=_numbers(frame, "fp32_nll_nats", name),
        variant_nll_nats={v: _numbers(frame, f"{v}{NLL_SUFFIX}", name) for v in variants},
        learning_rate=_optional(frame, "learning_rate", name),
        kurtosis=_optional(frame, "kurtosis", name),
        fp32_batch_nll_nats=losses_per("batch", frame, FP32, name),
        variant_batch_nll_nats={
            v: values for v in variants if (values := losses_per("batch", frame, v, name)) is not None
        },
        duplicate=filled(frame, "duplicate_of"),
        name=name,
    )


_EMPTY = frozenset({"", "na", "n/a", "null", "none"})
_NO_NAME = _EMPTY | {"nan", "false"}
_ZERO = frozenset({"0", "0.0"})


def _numbers(frame: pl.DataFrame, column: str, name: str) -> FloatArray:
    series = frame[column]
    if series.dtype == pl.String:  # one `nan` or `NA` spelling makes a csv reader call the whole column text
        texts = ["" if x is None else str(x).strip() for x in series]
        try:
            return np.array([np.nan if t.lower() in _EMPTY else float(t) for t in texts], dtype=np.float64)
        except ValueError as error:
            raise UsageError(f"{name}: column {column} is not numeric ({error})") from None
    if not (series.dtype.is_numeric() or series.dtype == pl.Null):
        raise UsageError(f"{name}: column {column} is {series.dtype}, not a number")
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


def _optional(frame: pl.DataFrame, column: str, name: str) -> FloatArray | None:
    if column not in frame.columns or frame[column].null_count() == frame.height:
        return None
    return _numbers(frame, column, name)


def filled(frame: pl.DataFrame, column: str) -> BoolArray | None:
    """Which cells of a column of names or step numbers hold one, shape (n,); None where the table has none.

    NaN and false are empty. 0 is a step where other cells are empty; a column without an empty cell holds flags.
    """
    if column not in frame.columns or frame[column].null_count() == frame.height:
        return None
    cells = ["" if cell is None else str(cell).strip().lower() for cell in frame[column].to_list()]
    found = np.array([cell not in _NO_NAME for cell in cells])
    return np.array([cell not in _ZERO for cell in cells]) if found.all() else found


def losses_per(piece: str, frame: pl.DataFrame, variant: str, name: str) -> FloatArray | None:
    """Losses of one variant per ``piece`` of ``PER_TEXT``, (n, pieces), NaN in rows without; None where the table has
    none. UsageError, with the table's ``name``, for lists of unequal length.
    """
    column = f"{variant}_{piece}{NLL_SUFFIX}"
    if column not in frame.columns or frame[column].null_count() == frame.height:
        return None
    series = frame[column]
    if not isinstance(series.dtype, pl.List | pl.Array):
        raise UsageError(f"{name}: column {column} is {series.dtype}, wanted a list of losses per checkpoint")
    rows = series.to_list()
    lengths = sorted({len(row) for row in rows if row is not None})
    if len(lengths) > 1:
        raise UsageError(
            f"{name}: column {column} holds lists of {lengths[0]} to {lengths[-1]} losses, wanted as many in every row"
        )
    empty = [None] * lengths[0]
    try:
        return np.array([empty if row is None else row for row in rows], dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name}: column {column} holds {series.dtype}, wanted lists of numbers") from None
