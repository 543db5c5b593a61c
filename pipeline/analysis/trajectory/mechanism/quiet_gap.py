"""The even part of the damage as a second, quieter gap: what onset and decision say of it.

(f(1) + f(-1)) / 2 has no first-order term g'D, the accident of how the weights happened to be rounded, and so scatters
less from checkpoint to checkpoint. Its rules are those of the gap itself (``phases``, ``decision``), read from a curve
whose quantized loss is L(W) plus the even part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.decision import Decision, decide
from pipeline.analysis.statistics.curves import Curve, FloatArray
from pipeline.analysis.statistics.noise import pseudo_residuals
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.phase_detection import detect_phases

EVEN = "even part"
"""The variant's name in the curve of :func:`even_curve`."""
FEWEST = 8
"""Fewest checkpoints for an estimate of the scatter."""


@dataclass(frozen=True)
class QuietGap:
    """Onset and decision from the even part of one variant's damage."""

    growth: str
    """Kind of growth, as in report.json."""
    onset_step: int | None
    onset_ci: tuple[int, ...] | None
    """First and last step."""
    reason: str | None
    """Why there is no onset."""
    best_step: int | None
    """The checkpoint whose loss with the even part alone is lowest; None where none can be chosen."""
    n_maybe_best: int | None
    """Checkpoints that the text cannot tell from it, itself among them."""
    variance_ratio: float | None
    """Variance of the gap's scatter between checkpoints over that of the even part's; None where it is not known."""


def even_curve(losses: ControlLosses, learning_rate: FloatArray | None = None) -> Curve | None:
    """The losses whose gap is that of the even part, as a variant called ``EVEN``; None without f(-1)."""
    even = losses.even_TB()
    if even is None:
        return None
    batches = losses.fp32_TB + even
    return Curve(
        step=losses.step,
        fp32_nll_nats=losses.fp32_TB.mean(axis=1),
        variant_nll_nats={EVEN: batches.mean(axis=1)},
        learning_rate=learning_rate,
        fp32_batch_nll_nats=losses.fp32_TB,
        variant_batch_nll_nats={EVEN: batches},
        duplicate=None if losses.distinct is None else ~losses.distinct,
        name=f"even part of {losses.variant}",
    )


def quiet_gap(
    losses: ControlLosses, learning_rate: FloatArray | None = None, *, seed: int = 0, n_null: int = N_NULL
) -> QuietGap | None:
    """Onset and decision on the even part; None without f(-1)."""
    curve = even_curve(losses, learning_rate)
    if curve is None:
        return None
    found = detect_phases(curve, variant=EVEN, seed=seed, n_null=n_null)
    decided = decide(
        losses.step,
        curve.variant_batch_nll_nats[EVEN],
        losses.fp32_TB,
        variant=losses.variant,
        distinct=losses.distinct,
        seed=seed,
    )
    chosen = decided if isinstance(decided, Decision) else None
    return QuietGap(
        growth=str(found.growth),
        onset_step=found.onset_step,
        onset_ci=found.onset_ci,
        reason=found.onset_reason,
        best_step=None if chosen is None else chosen.best_step,
        n_maybe_best=None if chosen is None else len(chosen.maybe_best),
        variance_ratio=_variance_ratio(losses, curve),
    )


def _variance_ratio(losses: ControlLosses, curve: Curve) -> float | None:
    even = curve.nll(EVEN) - curve.fp32_nll_nats
    own = losses.usable & np.isfinite(even)
    if own.sum() < FEWEST:
        return None
    at = losses.step[own].astype(np.float64)
    raw, quiet = (
        float(np.median(np.abs(pseudo_residuals(at, values[own])))) for values in (losses.damage, even)
    )
    return (raw / quiet) ** 2 if quiet > 0 else None
