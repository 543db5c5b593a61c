"""One run's losses over its checkpoints: the only input that the phase rules read.

gap = exp(nll_variant - nll_fp32) - 1, the relative perplexity increase.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.base.errors import UsageError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MIN_ROWS = 3
FP32 = "fp32"
NLL_SUFFIX = "_nll_nats"
PER_TEXT = ("sequence", "batch")
"""Pieces of text that a table may hold lists of losses of, ``<variant>_<piece>_nll_nats``; shortest first."""


def gap_from_nll(nll_q: FloatArray, nll_fp32: FloatArray) -> FloatArray:
    """Relative perplexity increase, unitless, same shape as the inputs (nats per token).

    NaN stays NaN, and a variant whose loss has overflowed gives inf, without a warning.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.expm1(np.asarray(nll_q, dtype=np.float64) - np.asarray(nll_fp32, dtype=np.float64))


@dataclass(frozen=True)
class Curve:
    """Losses of one trajectory, one entry per checkpoint, steps strictly increasing.

    Raises UsageError when lengths disagree, steps are not strictly increasing or there are fewer than 3 rows.
    """

    step: IntArray
    """Training step, shape (n,)."""
    fp32_nll_nats: FloatArray
    """Mean loss of the stored weights, nats per token, shape (n,). NaN = diverged."""
    variant_nll_nats: Mapping[str, FloatArray]
    """Variant name (`int4`, `int8`, ...) -> mean loss in nats per token, shape (n,)."""
    learning_rate: FloatArray | None = None
    """Learning rate at each step, shape (n,)."""
    kurtosis: FloatArray | None = None
    """Excess kurtosis of the quantized weights, shape (n,)."""
    fp32_batch_nll_nats: FloatArray | None = None
    """Loss per evaluation batch, shape (n, n_batches); the same equally long batches at every step."""
    variant_batch_nll_nats: Mapping[str, FloatArray] = field(default_factory=dict)
    """Variant name -> loss per evaluation batch, shape (n, n_batches), paired with `fp32_batch_nll_nats`."""
    duplicate: BoolArray | None = None
    """Whether a checkpoint repeats the weights of an earlier one, shape (n,)."""
    name: str = "trajectory"
    """Name of this curve in error messages."""

    def __post_init__(self) -> None:
        n = len(self.step)
        if n < MIN_ROWS:
            raise UsageError(f"{self.name}: {n} checkpoints given, at least {MIN_ROWS} are needed")
        if np.any(np.diff(self.step) <= 0):
            at = int(np.flatnonzero(np.diff(self.step) <= 0)[0])
            raise UsageError(
                f"{self.name}: steps must increase and appear once, but step {self.step[at + 1]} follows "
                f"step {self.step[at]} (row {at + 1}); sort the table by step and drop repeats"
            )
        columns: dict[str, FloatArray | BoolArray | None] = {
            "fp32_nll_nats": self.fp32_nll_nats,
            "learning_rate": self.learning_rate,
            "kurtosis": self.kurtosis,
            "fp32_batch_nll_nats": self.fp32_batch_nll_nats,
            "duplicate_of": self.duplicate,
        }
        columns |= {f"{k}{NLL_SUFFIX}": v for k, v in self.variant_nll_nats.items()}
        columns |= {f"{k}_batch{NLL_SUFFIX}": v for k, v in self.variant_batch_nll_nats.items()}
        for column, values in columns.items():
            if values is not None and len(values) != n:
                raise UsageError(f"{self.name}: {column} has {len(values)} rows, step has {n}")
        if self.variant_batch_nll_nats:
            self._check_batches()

    def _check_batches(self) -> None:
        if self.fp32_batch_nll_nats is None:
            raise UsageError(f"{self.name}: per-batch losses of a variant need those of fp32 to pair with")
        for variant, values in self.variant_batch_nll_nats.items():
            if values.shape != self.fp32_batch_nll_nats.shape:
                raise UsageError(
                    f"{self.name}: batch losses of {variant} have shape {values.shape}, "
                    f"those of fp32 {self.fp32_batch_nll_nats.shape}"
                )

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the quantized variants, in table order."""
        return tuple(self.variant_nll_nats)

    def nll(self, variant: str) -> FloatArray:
        """Loss of one variant, nats per token, shape (n,). UsageError names the nearest known variant."""
        if variant not in self.variant_nll_nats:
            near = difflib.get_close_matches(variant, self.variants, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = ", ".join(self.variants) or "none"
            raise UsageError(f"{self.name}: no column {variant}{NLL_SUFFIX} (variants here: {known}){hint}")
        return self.variant_nll_nats[variant]

    def gap(self, variant: str) -> FloatArray:
        """Relative perplexity increase of one variant, unitless (0.11 = 11 %), shape (n,)."""
        return gap_from_nll(self.nll(variant), self.fp32_nll_nats)

    @property
    def first_of_its_content(self) -> BoolArray:
        """Rows that enter fits: every content once, at its first step; shape (n,)."""
        return np.ones(len(self.step), dtype=bool) if self.duplicate is None else ~self.duplicate

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, *, name: str = "table") -> Curve:
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
                raise UsageError(
                    f"{name}: column {column} is missing{hint}; found {', '.join(frame.columns)}"
                )
        lists = tuple(f"_{piece}{NLL_SUFFIX}" for piece in PER_TEXT)
        losses = [c for c in frame.columns if c.endswith(NLL_SUFFIX) and not f"_{c}".endswith(lists)]
        variants = [c.removesuffix(NLL_SUFFIX) for c in losses if c != f"{FP32}{NLL_SUFFIX}"]
        if not variants:
            raise UsageError(f"{name}: no column named <variant>{NLL_SUFFIX} beside fp32_nll_nats")
        steps = _numbers(frame, "step", name)
        if not np.all(np.isfinite(steps)) or np.any(steps != np.round(steps)):
            raise UsageError(f"{name}: column step must hold whole numbers")
        return cls(
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
    """Which cells of a column of names hold one, shape (n,); None where the table has none."""
    if column not in frame.columns or frame[column].null_count() == frame.height:
        return None
    cells = (str(cell or "").strip().lower() for cell in frame[column].to_list())
    return np.array([cell not in _EMPTY for cell in cells])


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
