"""Growth of a gap between two windows of steps, and its comparison between trainings.

The gap of a window is the mean over its checkpoints of perplexity_variant / perplexity_fp32 - 1, its growth the ratio
of a late window's to an early one's. An interval here holds for this training. It counts the scatter of single
checkpoints (``statistics.noise``) and the choice of the evaluation text, by a jackknife over blocks of
batches, the same for every checkpoint and training. It does not say what another training of the same recipe would
give: ``trainings`` uses trainings as units. Unlike an onset, a growth needs no model of the curve.

Measured on 1,000 simulated trajectories a cell (``python -m tests.analysis.trajectory.growth_rates``, where the table
stands): intervals of a growth cover the truth in 0.945 to 0.984 of cases, those of a ratio in 0.959 to 0.984, for a
memory of 0, 0.5 and 0.9 between neighbouring checkpoints, on flat, kinked, exponential and early steep courses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.bootstrap import without_each_block
from pipeline.analysis.statistics.curves import BoolArray, Curve, FloatArray, gap_from_nll
from pipeline.analysis.statistics.intervals import Bounded, power_of, smallest_found, student_half_width
from pipeline.analysis.statistics.noise import window_noise
from pipeline.base.english import counted
from pipeline.base.errors import UsageError

START_UP = 0.1
"""Initial share of a run that is too steep to show the scatter of later checkpoints."""


@dataclass(frozen=True)
class Window:
    """Checkpoints from one step to another, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"

    def rows(self, curve: Curve) -> BoolArray:
        """Which checkpoints of ``curve`` are in the window, without those that repeat an earlier one's weights; raises
        UsageError for fewer than two.
        """
        inside: BoolArray = (
            (curve.step >= self.first) & (curve.step <= self.last) & curve.first_of_its_content
        )
        if inside.sum() < 2:
            raise UsageError(
                f"{curve.name}: {counted(int(inside.sum()), 'checkpoint')} from step {self.first} to {self.last}: "
                f"wanted at least 2; its steps go from {curve.step[0]} to {curve.step[-1]}"
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
class Power:
    """Power of the rule "the interval of the ratio lies above ``threshold``" with the present errors."""

    threshold: float
    smallest_ratio: float
    """True ratio that meets the rule four times out of five."""
    at_estimate: float
    """Probability that the rule is met if the true ratio is the estimate."""


@dataclass(frozen=True)
class Ratio:
    """A growth over the growth that it is compared with."""

    estimate: float
    lower: float
    upper: float
    power: Power


@dataclass(frozen=True)
class Growth:
    """The gap of one training in two windows."""

    before: Bounded
    end: Bounded
    growth: Bounded | None
    """end / before; None if the gap before is not significantly different from 0."""
    against: Ratio | None
    """This growth over the growth of the training it is compared with; None for that one itself, and if one of the
    two has no growth."""
    memory: float
    """Correlation of the luck of neighbouring checkpoints."""
    intervals: str
    """Sources of variance in the intervals: ``checkpoints and text``, or ``checkpoints`` without losses per batch."""


@dataclass(frozen=True, eq=False)
class _Windows:
    """The gaps of the two windows of one curve."""

    gaps: FloatArray
    """(2,): before, end"""
    covariance: FloatArray
    """(2, 2), of the luck of checkpoints"""
    df: float
    without: FloatArray | None
    """(2, blocks): the gaps without each block of batches; None where these are not known."""
    memory: float

    def gap(self, index: int) -> Bounded:
        text = None if self.without is None else self.without[index]
        return _bounded(self.gaps[index], self.covariance[index, index], self.df, text)

    def log_growth(self) -> tuple[float, float, float, FloatArray | None]:
        """log(end / before), its variance over checkpoints with their df, and itself without each block of batches."""
        slope = np.array([-1, 1]) / self.gaps
        without = None if self.without is None else np.log(self.without[1] / self.without[0])
        return math.log(self.gaps[1] / self.gaps[0]), float(slope @ self.covariance @ slope), self.df, without


def compare_growth(
    curves: list[Curve], variant: str, before: Window, end: Window, *, threshold: float = 1.0
) -> list[Growth]:
    """The growth of every curve, and its ratio to that of the first.

    ``threshold``: of the rule whose power is reported. Raises UsageError if a window is empty or holds a loss that
    is not finite, or if curves have different numbers of batches.
    """
    shapes = {each.fp32_batch_nll_nats.shape[1] for each in curves if each.fp32_batch_nll_nats is not None}
    if len(shapes) > 1:
        raise UsageError(f"the audits have {sorted(shapes)} batches: wanted the same evaluation for all")
    measured = [_measure(curve, variant, before, end) for curve in curves]
    grown = [each.gap(0).lower > 0 and each.gaps[1] > 0 for each in measured]
    return [
        Growth(
            before=each.gap(0),
            end=each.gap(1),
            growth=_bounded(*each.log_growth()).exp() if has else None,
            against=_ratio(each, measured[0], threshold) if has and grown[0] and index > 0 else None,
            memory=each.memory,
            intervals="checkpoints" if each.without is None else "checkpoints and text",
        )
        for index, (each, has) in enumerate(zip(measured, grown, strict=True))
    ]


def ratio_power(estimate: float, se: float, df: float, threshold: float) -> Power:
    """The power of "the interval lies above ``threshold``" for an ``estimate`` of the log ratio with error ``se``."""
    smallest = threshold * math.exp(smallest_found(se, df)) if se > 0 else threshold
    return Power(threshold, smallest, power_of(estimate - math.log(threshold), se, df))


def _measure(curve: Curve, variant: str, before: Window, end: Window) -> _Windows:
    rows = [window.rows(curve) for window in (before, end)]
    gap = curve.gap(variant)
    for window in rows:
        if not np.isfinite(gap[window]).all():
            step = curve.step[window][~np.isfinite(gap[window])][0]
            raise UsageError(
                f"{curve.name}: the gap of {variant} at step {step} is not a number: choose windows without it, or "
                "name other variants"
            )
    start = min(before.first, max(2 * before.first - end.last, int(START_UP * curve.step[-1])))
    whole = (curve.step >= start) & (curve.step <= end.last) & np.isfinite(gap) & curve.first_of_its_content
    noise = window_noise(curve.step[whole], gap[whole], [window[whole] for window in rows])
    gaps = np.array([gap[window].mean() for window in rows])
    return _Windows(gaps, noise.covariance, noise.df, _without_text(curve, variant, rows), noise.memory)


def _without_text(curve: Curve, variant: str, rows: list[BoolArray]) -> FloatArray | None:
    """The gaps of the windows without each block of batches, (2, blocks); None for one batch or none."""
    fp32, own = curve.fp32_batch_nll_nats, curve.variant_batch_nll_nats.get(variant)
    if fp32 is None or own is None or fp32.shape[1] < 2:
        return None
    gaps = (gap_from_nll(*(without_each_block(each[window]) for each in (own, fp32))) for window in rows)
    return np.array([[block.mean() for block in each.T] for each in gaps])


def _ratio(own: _Windows, first: _Windows, threshold: float) -> Ratio:
    ours, our_variance, our_df, our_text = own.log_growth()
    theirs, their_variance, their_df, their_text = first.log_growth()
    text = None if our_text is None or their_text is None else our_text - their_text
    variance = our_variance + their_variance
    df = variance**2 / (our_variance**2 / our_df + their_variance**2 / their_df)
    se, df = _total(variance, df, text)
    half = student_half_width(se, df)
    low, middle, high = (math.exp(ours - theirs + side * half) for side in (-1, 0, 1))
    return Ratio(middle, low, high, ratio_power(ours - theirs, se, df, threshold))


def _total(variance: float, df: float, without: FloatArray | None) -> tuple[float, float]:
    """Standard error of checkpoints and text together, and its degrees of freedom (Satterthwaite 1946)."""
    if without is None:
        return math.sqrt(variance), df
    n = len(without)
    text = (n - 1) * float(without.var())
    total = variance + text
    if total == 0:
        return 0.0, df
    return math.sqrt(total), total**2 / (variance**2 / df + text**2 / (n - 1))


def _bounded(estimate: float, variance: float, df: float, without: FloatArray | None) -> Bounded:
    se, df = _total(variance, df, without)
    half = student_half_width(se, df)
    return Bounded(float(estimate), float(estimate) - half, float(estimate) + half)
