"""The trace of the Hessian against what noise costs, where a checkpoint has both (``--flatness``, ``--mechanism``).

Independent noise of variance s_m^2 in every weight of matrix m costs sum_m s_m^2 tr_m / 2 on average, as far as a
parabola goes, with tr_m the trace of the Hessian over that matrix alone. For noise of a share of each matrix' root mean
square that is exact; for the rounding error D of a variant with random signs, or normal noise of its size, s_m^2 is
taken as |D_m|^2 / n_m, as if its error were spread evenly within each matrix.

Both sides are means over draws on the same text, the sequences that the Hessian was measured on, so their errors are
those of the draws alone: 16 vectors of Hutchinson's estimate, and the controls' seeds.

Legend of shapes: D = vectors of Hutchinson's estimate, S = seeds of a control, M = matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.statistics.contrasts import welch_estimate
from pipeline.analysis.statistics.curves import FP32, FloatArray
from pipeline.analysis.statistics.intervals import mean_se
from pipeline.analysis.statistics.mechanism_factors import ControlledLoss
from pipeline.runs.control_column import CONTROLS
from pipeline.runs.shard import Shard
from pipeline.spec import TokenShape, column_of

RELATIVE, SIGNS, GAUSSIAN = "relative", "signs", "gaussian"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class TraceCheck:
    """What the trace predicts of one kind of noise at one checkpoint, and what the noise cost, nats per token."""

    step: int
    variant: str
    """Column prefix; ``fp32`` for noise that no quantizer enters."""
    noise: str
    """Kind of control: ``relative``, ``signs`` or ``gaussian``."""
    share: float
    """Size as a share of each matrix' root mean square, for ``relative``; 1 for others."""
    predicted_nats: float
    predicted_se: float
    measured_nats: float
    measured_se: float
    difference_lower: float
    """Predicted minus measured, 95 % (Welch's t over the draws of both)."""
    difference_upper: float

    @property
    def agrees(self) -> bool:
        """Whether the two are the same within their errors; False where one is not finite."""
        return self.difference_lower <= 0 <= self.difference_upper


def trace_checks(shards: Sequence[Shard]) -> tuple[TraceCheck, ...]:
    """All of them, in the order of ``shards``. A checkpoint has none if the sequences of its Hessian are no whole
    batches, and a variant has none if it quantizes other matrices than the Hessian is over.
    """
    return tuple(check for shard in shards for check in _of_shard(shard))


def _of_shard(shard: Shard) -> Iterator[TraceCheck]:
    if not {CONTROLS, *_HESSIAN} <= set(shard.table.column_names):
        return
    rows = shard.rows("step", "nll_nats", "batch_nll_nats", "tensors", CONTROLS, *_HESSIAN)
    fp32 = rows[FP32]
    batch_size = shard.config["shape"].get("batch_size", TokenShape.batch_size)
    if not fp32["hessian_draws"] or fp32["hessian_sequences"] % batch_size:
        return
    batches = fp32["hessian_sequences"] // batch_size
    for row in rows.values():
        controls = ControlledLoss.of(row, fp32)
        if controls is None:
            continue
        for (kind, share), damage_SB in controls.drawn.items():
            predicted_D = _predicted(fp32, row, kind, share)
            if kind in (RELATIVE, SIGNS, GAUSSIAN) and predicted_D is not None:
                measured_S = damage_SB[:, :batches].mean(axis=1)
                yield _check(row, kind, share, predicted_D, measured_S)


_HESSIAN = ("hessian_sequences", "hessian_matrices", "hessian_draws")


def _predicted(fp32: Row, row: Row, kind: str, share: float) -> FloatArray | None:
    """Damage of the noise by each vector of Hutchinson's estimate, (D,); None if matrices differ."""
    names = fp32["hessian_matrices"].split()
    draws_DM = np.array(fp32["hessian_draws"], dtype=np.float64).reshape(-1, len(names))
    tensors = {each["name"]: each for each in row["tensors"]}
    if set(tensors) != set(names):
        return None
    factors_M = np.array(
        [
            _square(tensors[name], share if kind == RELATIVE else tensors[name]["relative_error"])
            for name in names
        ]
    )
    found: FloatArray = draws_DM @ factors_M / 2
    return found


def _square(tensor: Row, relative: float | None) -> float:
    """Mean square of an error of the size ``relative`` to the weights of ``tensor``; not quantized, it has none."""
    return (relative or 0.0) ** 2 * (tensor["std"] ** 2 + tensor["mean"] ** 2)


def _check(row: Row, kind: str, share: float, predicted_D: FloatArray, measured_S: FloatArray) -> TraceCheck:
    difference = welch_estimate(predicted_D, measured_S)
    finite = bool(np.isfinite(predicted_D).all() and np.isfinite(measured_S).all())
    lower, upper = (difference.lower, difference.upper) if finite else (None, None)
    return TraceCheck(
        step=row["step"],
        variant=column_of(row["variant"]),
        noise=kind,
        share=share,
        predicted_nats=float(predicted_D.mean()),
        predicted_se=mean_se(predicted_D),
        measured_nats=float(measured_S.mean()),
        measured_se=mean_se(measured_S),
        difference_lower=math.nan if lower is None else lower,
        difference_upper=math.nan if upper is None else upper,
    )
