"""How much a gap grew between two windows of steps, and whether it grew more in one suite than in another.

The gap of a window is the mean over its checkpoints of perplexity_variant / perplexity_fp32 - 1, its growth the ratio
of a late window's to an early one's. Two things are a sample. The evaluation text is resampled in paired blocks of
batches, the same for every checkpoint and suite. The checkpoints scatter about their course, neighbours alike; a window
has too few for a bootstrap, so its mean gets an error drawn from Student's t with n - 1 degrees of freedom, times
sd / sqrt(n / 3): three neighbours count as one, as with a correlation of 0.5 between them. A trend within a
window counts as scatter, which errs towards wide intervals. Unlike an onset, a growth needs no model of the curve.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.bootstrap import batch_weights, paired_replicates
from pipeline.analysis.curves import BoolArray, Curve, FloatArray
from pipeline.errors import UsageError

N_REPLICATES = 2000
ALIKE = 3
"""Neighbouring checkpoints that count as one."""
LEVEL = 0.95


@dataclass(frozen=True)
class Bounded:
    """A number with its 95 % interval."""

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Window:
    """Checkpoints from one step to another, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"

    def rows(self, curve: Curve) -> BoolArray:
        """Which checkpoints of ``curve`` are in it; ``UsageError`` for fewer than two."""
        inside: BoolArray = (curve.step >= self.first) & (curve.step <= self.last)
        if inside.sum() < 2:
            raise UsageError(
                f"{curve.name}: {inside.sum()} checkpoints from step {self.first} to {self.last}: wanted at least 2; "
                f"its steps go from {curve.step[0]} to {curve.step[-1]}"
            )
        return inside


def parse_window(text: str) -> Window:
    """The window of ``FIRST:LAST``.

    >>> parse_window("20000:22800")
    Window(first=20000, last=22800)
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise UsageError(f"window {text!r}: wanted FIRST:LAST, two steps in order, such as 20000:22800")
    return Window(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Growth:
    """The gap of one suite in two windows."""

    before: Bounded
    end: Bounded
    growth: Bounded | None
    """end / before; None where the gap before cannot be told from 0."""
    against: Bounded | None
    """This growth over the growth of the suite it is compared with; None for that suite itself, and where one of the
    two has no growth."""


def compare_growth(
    curves: list[Curve], variant: str, before: Window, end: Window, *, seed: int = 0
) -> list[Growth]:
    """The growth of every curve, and of all but the first against the first's.

    ``UsageError`` where a window is empty or holds a loss that is not a number, or where a curve has no losses per
    batch or not the batches of the first.
    """
    replicates = _Replicates(curves, seed)
    found: list[Growth] = []
    first: tuple[float, FloatArray] | None = None
    for index, curve in enumerate(curves):
        (early, early_samples), (late, late_samples) = (
            replicates.gap(curve, variant, each) for each in (before, end)
        )
        bounded_early, bounded_late = _bounded(early, early_samples), _bounded(late, late_samples)
        if bounded_early.lower <= 0:  # a ratio to what may be nothing says nothing
            found.append(Growth(bounded_early, bounded_late, None, None))
            continue
        grown, samples = late / early, late_samples / early_samples
        against = None if first is None else _bounded(grown / first[0], samples / first[1])
        found.append(Growth(bounded_early, bounded_late, _bounded(grown, samples), against))
        if index == 0:
            first = (grown, samples)
    return found


class _Replicates:
    """Resampled gaps of windows."""

    def __init__(self, curves: list[Curve], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        shapes = set()
        for curve in curves:
            if curve.fp32_batch_nll_nats is None:
                raise UsageError(f"{curve.name} has no losses per batch: wanted the folder of an audit")
            shapes.add(curve.fp32_batch_nll_nats.shape[1])
        if len(shapes) > 1:
            raise UsageError(f"the audits have {sorted(shapes)} batches: wanted the same evaluation for all")
        self._weights = batch_weights(self._rng, shapes.pop(), N_REPLICATES)

    def gap(self, curve: Curve, variant: str, window: Window) -> tuple[float, FloatArray]:
        """The window's gap, and its replicates (N_REPLICATES,)."""
        rows, gap = window.rows(curve), curve.gap(variant)
        if not np.isfinite(gap[rows]).all():
            step = curve.step[rows][~np.isfinite(gap[rows])][0]
            raise UsageError(
                f"{curve.name}: the gap of {variant} at step {step} is not a number: choose windows without it, or "
                "name other variants"
            )
        assert curve.fp32_batch_nll_nats is not None
        _, gaps = paired_replicates(
            curve.fp32_batch_nll_nats[rows], curve.variant_batch_nll_nats[variant][rows], self._weights
        )
        n = int(rows.sum())
        error = gap[rows].std(ddof=1) / np.sqrt(max(1.0, n / ALIKE))
        samples: FloatArray = gaps.mean(axis=0) + error * self._rng.standard_t(n - 1, N_REPLICATES)
        return float(gap[rows].mean()), samples


def _bounded(estimate: float, samples: FloatArray) -> Bounded:
    tail = (1 - LEVEL) / 2
    lower, upper = np.quantile(samples, [tail, 1 - tail])
    return Bounded(estimate, float(lower), float(upper))
