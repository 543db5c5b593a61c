"""One run's losses over its checkpoints: the only input that the phase rules read.

gap = exp(nll_variant - nll_fp32) - 1, the relative perplexity increase.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.base.english import counted
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
    """Losses of one trajectory, one entry per checkpoint, steps strictly increasing; lists become arrays.

    Raises UsageError when lengths disagree, steps are not strictly increasing, a learning rate is negative or there are
    fewer than 3 rows.
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
        self._make_arrays()
        n = len(self.step)
        if n < MIN_ROWS:
            raise UsageError(f"{self.name}: {counted(n, 'checkpoint')} given, at least {MIN_ROWS} are needed")
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
                raise UsageError(f"{self.name}: {column} has {counted(len(values), 'row')}, step has {n}")
        if self.variant_batch_nll_nats:
            self._check_batches()
        if self.learning_rate is not None and np.any(below := self.learning_rate < 0):
            at = int(np.flatnonzero(below)[0])
            raise UsageError(
                f"{self.name}: column learning_rate holds {self.learning_rate[at]} at step {self.step[at]}: wanted a "
                "rate of 0 or more, or an empty cell where it is not known"
            )

    def _make_arrays(self) -> None:
        given = np.asarray(self.step)
        if given.dtype.kind not in "iuf" or np.any(~np.isfinite(given) | (given != np.round(given))):
            raise UsageError(f"{self.name}: step must hold whole numbers")
        for name in (
            "step",
            "fp32_nll_nats",
            "learning_rate",
            "kurtosis",
            "fp32_batch_nll_nats",
            "duplicate",
        ):
            kind = {"step": np.int64, "duplicate": np.bool_}.get(name, np.float64)
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        for name in ("variant_nll_nats", "variant_batch_nll_nats"):
            arrays = {key: np.asarray(each, dtype=np.float64) for key, each in getattr(self, name).items()}
            object.__setattr__(self, name, arrays)

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
