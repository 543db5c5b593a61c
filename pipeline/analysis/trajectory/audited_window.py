"""The part of a curve that enters the fits: usable checkpoints, each content once, by position in the audited window.

Every share of the run is a share of the window from the first to the last finite checkpoint, so that the answer does
not depend on where a window of a longer run begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.bootstrap import batch_weights, paired_replicates
from pipeline.analysis.statistics.curves import Curve, FloatArray, IntArray
from pipeline.analysis.statistics.intervals import percentiles
from pipeline.analysis.trajectory.rate_response import relative_rate

INITIAL_SHARE = 0.01
"""Checkpoints before this share of the audited window are not used, because nearly untrained weights behave
differently."""
MAX_GAP = 1e9
"""Larger gaps (20 nats, far beyond a uniform guess) count as diverged."""
MAX_POINTS = 400
"""Longer tables are averaged over neighbouring checkpoints to at most this many points before the fits."""
BATCH_REPLICATES = 100
"""Block-bootstrap replicates over evaluation batches."""


@dataclass(frozen=True)
class AuditedWindow:
    """The points of the fits; positions are shares of the window."""

    every_step: IntArray
    """Steps of all finite checkpoints."""
    step: IntArray
    """Steps of the used ones, shape (n,)."""
    start: float
    span: float
    x: FloatArray
    """Positions of the points, (m,), m = n unless thinned."""
    fp32: FloatArray
    gap: FloatArray
    rate: FloatArray | None
    """Learning rate over its peak, (m,)."""
    fp32_b: FloatArray | None
    """FP32 losses on resampled text, (m, B)."""
    gap_b: FloatArray | None
    n_not_finite: int
    n_duplicates: int

    def steps_at(self, x: FloatArray) -> FloatArray:
        """Steps, not whole, at positions."""
        return self.start + x * self.span

    def nearest(self, x: float) -> int:
        """The used checkpoint nearest to a position."""
        return int(self.step[np.argmin(np.abs(self.step - (self.start + x * self.span)))])

    def outward(self, draws: FloatArray, point: int, level: float) -> tuple[int, int]:
        """Equal-tailed interval of positions rounded outward to checkpoints, always holding the point."""
        low, high = percentiles(self.steps_at(draws), level)
        first = max(int(np.searchsorted(self.step, low, side="right")) - 1, 0)
        end = min(int(np.searchsorted(self.step, high, side="left")), len(self.step) - 1)
        return min(int(self.step[first]), point), max(int(self.step[end]), point)


def audited_window(curve: Curve, variant: str, rng: np.random.Generator) -> AuditedWindow:
    """The window of one curve and the gap of `variant`; UsageError for an unknown one."""
    gap = curve.gap(variant)
    finite = np.isfinite(gap) & (gap < MAX_GAP) & np.isfinite(curve.fp32_nll_nats)
    own = finite & curve.first_of_its_content
    steps = curve.step[own].astype(np.float64)
    start, end = (float(steps[0]), float(steps[-1])) if len(steps) else (0.0, 0.0)
    span = max(end - start, 1.0)
    used = own & (curve.step >= start + INITIAL_SHARE * span)
    step = curve.step[used]
    fp32_b, gap_b = None, None
    batches = curve.variant_batch_nll_nats.get(variant)
    if curve.fp32_batch_nll_nats is not None and batches is not None and len(step):
        fp32, quantized = curve.fp32_batch_nll_nats[used], batches[used]
        if fp32.shape[1] >= 2 and np.all(np.isfinite(fp32)) and np.all(np.isfinite(quantized)):
            weights = batch_weights(rng, fp32.shape[1], BATCH_REPLICATES)
            fp32_b, gap_b = (_thin(each) for each in paired_replicates(fp32, quantized, weights))
    rate = curve.learning_rate
    relative = None if rate is None or not len(step) else relative_rate(step, rate[used])
    return AuditedWindow(
        every_step=curve.step[finite],
        step=step,
        start=start,
        span=span,
        x=_thin((step.astype(np.float64) - start) / span),
        fp32=_thin(curve.fp32_nll_nats[used]),
        gap=_thin(gap[used]),
        rate=None if relative is None else _thin(relative),
        fp32_b=fp32_b,
        gap_b=gap_b,
        n_not_finite=int(np.sum(~finite)),
        n_duplicates=int(np.sum(finite & ~own)),
    )


def _thin(values: FloatArray) -> FloatArray:
    """Average neighbouring rows so that the first axis has at most MAX_POINTS."""
    if not len(values):
        return values
    starts = np.arange(0, len(values), -(-len(values) // MAX_POINTS))
    counts = np.diff(np.append(starts, len(values))).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(np.add.reduceat(values, starts, axis=0) / counts)
