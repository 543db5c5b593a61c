"""The square law: damage in nats = kappa x (relative weight error)^2, over the variants of one checkpoint.

A loss near its minimum along a random direction is a parabola, so rounding that moves the weights by a share r of their
norm should cost a multiple of r^2, whatever the grid. kappa is that multiple: how sensitive the loss is to rounding,
apart from how coarse the grid is. r counts all quantized weights of a variant: r^2 = sum
||W' - W||^2 / sum ||W||^2 over its tensors, with ||W||^2 = n (std^2 + mean^2).

kappa is a weighted least-squares fit through 0. A variant's variance is that of its text error plus that of the law's
own scatter, :data:`TYPICAL_SCATTER` of the predicted damage, which 28 grids of three to eight bits showed (fitted kappa
5.5 early and 9.6 late in training, scatter 0.16 to 0.19 in the logarithm). So INT8, whose damage the text hardly shows,
says little about kappa, and is predicted from the others. Intervals are over the evaluation text: a jackknife over
blocks of batches.

A variant whose r is above :data:`LARGEST_ERROR` is in no fit: two bits cost 1.6 times what the law says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from pipeline.analysis.statistics.bootstrap import jackknife_se
from pipeline.analysis.statistics.curves import FloatArray, IntArray
from pipeline.analysis.statistics.intervals import LEVEL, mean_half_width
from pipeline.analysis.trajectory.rounding import (
    TYPICAL_SCATTER,
    RoundedCheckpoints,
    fit_square_law,
    half_width,
    read_damages,
)
from pipeline.runs.shard import Shard

LARGEST_ERROR = 0.35
"""Relative weight error up to which the law is fitted; three bits reach 0.31, two bits begin at 0.5."""
CLEAR = 3.0
"""Damage of so many standard errors of the text shows the law's own scatter."""
FEWEST = 3
"""Variants with clear damage from which a scatter is estimated."""
WINDOW_SHARE = 0.05
"""Share of the checkpoints in the windows half way and at the end, at least five each."""


@dataclass(frozen=True)
class KappaFit:
    """kappa, in nats per unit of squared relative weight error, with its 95 % interval over the evaluation text."""

    kappa: float
    lower: float | None
    """Interval; None for one batch of text."""
    upper: float | None
    scatter: float | None
    """Standard deviation of log(damage / predicted) over variants; None with fewer than three of clear damage."""
    n_variants: int


@dataclass(frozen=True)
class KappaGrowth:
    """Kappa at the end over kappa half way, with its 95 % interval over the evaluation text."""

    ratio: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class SmallDamage:
    """Whether the damage of INT8 at the end of the run has the size that the law fitted to the others predicts."""

    relative_error: float
    predicted_nats: float
    measured_nats: float
    lower: float | None
    """95 % interval of the measured damage over the text."""
    upper: float | None
    agrees: bool
    """Whether the difference lies within what the text, the scatter of checkpoints and that of the law leave open."""


@dataclass(frozen=True)
class SquareLaw:
    """The law over one trajectory: ``square_law`` of report.json."""

    half_way: KappaFit | None
    """Mean over the checkpoints half way; None with fewer than ten checkpoints."""
    end: KappaFit
    """Mean over the last checkpoints."""
    growth: KappaGrowth | None
    """None where either interval reaches 0."""
    int8: SmallDamage | None
    """None where INT8, or every other variant, was not measured."""
    sentence: str
    """The law in plain English."""


@dataclass(frozen=True)
class CheckpointFits:
    """The law over one trajectory, and at each of its checkpoints."""

    law: SquareLaw
    by_key: dict[str, KappaFit]
    """One fit per checkpoint key that has a finite damage."""

    def columns(self, keys: Sequence[str]) -> list[pl.Series]:
        """``kappa``, its interval and the law's scatter for the checkpoints ``keys``, null where there is no fit."""
        rows = [self.by_key.get(key) for key in keys]
        names = {"kappa": "kappa", "kappa_lower": "lower", "kappa_upper": "upper", "kappa_scatter": "scatter"}
        return [
            pl.Series(name, [None if row is None else getattr(row, field) for row in rows], dtype=pl.Float64)
            for name, field in names.items()
        ]


def square_law(shards: Sequence[Shard], *, duplicates: Sequence[str] = ()) -> CheckpointFits | None:
    """Fit the law to every shard of a trajectory, in step order; None if no checkpoint has quantized weights.

    ``duplicates``: keys of checkpoints with the weights of an earlier one, which enter no window.
    """
    every = read_damages(shards)
    fitted = every.only(np.nanmax(every.errors, axis=1, initial=0.0) <= LARGEST_ERROR**2)
    if not fitted.columns:
        return None
    kappa, without = fit_square_law(fitted)
    usable = np.isfinite(kappa)
    if not usable.any():
        return None
    by_key = {
        shard.key: _mean_fit(fitted, kappa, without, np.array([index]))
        for index, shard in enumerate(shards)
        if usable[index]
    }
    skipped = set(duplicates)
    once = np.array(
        [i for i, shard in enumerate(shards) if usable[i] and shard.key not in skipped], dtype=int
    )
    size = max(5, round(WINDOW_SHARE * len(once)))
    last, start = once[-size:], max(0, (len(once) - size) // 2)
    middle = once[start : start + size] if len(once) >= 10 else once[:0]
    end = _mean_fit(fitted, kappa, without, last)
    half_way = _mean_fit(fitted, kappa, without, middle) if len(middle) else None
    grown = _growth(kappa, without, middle, last) if _both_positive(half_way, end) else None
    int8 = _int8(every, fitted, last)
    return CheckpointFits(SquareLaw(half_way, end, grown, int8, _sentence(end, grown, int8)), by_key)


def _mean_fit(
    points: RoundedCheckpoints, kappa: FloatArray, without: FloatArray, chosen: IntArray
) -> KappaFit:
    """The mean kappa over the ``chosen`` checkpoints."""
    estimate = float(kappa[chosen].mean())
    lower, upper = _interval(estimate, without[chosen].mean(axis=0))
    errors, damage = points.errors[:, chosen], points.damage[:, chosen]
    measured = np.isfinite(damage) & np.isfinite(errors)
    together = measured.all(axis=1)
    mean = damage[together].mean(axis=1)
    se = jackknife_se(points.without[together][:, chosen].mean(axis=1)) if points.n_blocks > 1 else 0.0 * mean
    clear = (mean > CLEAR * se) & (mean > 0)
    scatter = None
    if clear.sum() >= FEWEST and estimate > 0:
        scatter = float(np.log(mean[clear] / errors[together].mean(axis=1)[clear]).std(ddof=1))
    return KappaFit(estimate, lower, upper, scatter, int(together.sum()))


def _growth(kappa: FloatArray, without: FloatArray, before: IntArray, after: IntArray) -> KappaGrowth:
    ratio = float(kappa[after].mean() / kappa[before].mean())
    lower, upper = _interval(
        math.log(ratio), np.log(without[after].mean(axis=0) / without[before].mean(axis=0))
    )
    return KappaGrowth(
        ratio, None if lower is None else math.exp(lower), None if upper is None else math.exp(upper)
    )


def _both_positive(*each: KappaFit | None) -> bool:
    return all(one is not None and one.kappa > 0 and (one.lower is None or one.lower > 0) for one in each)


def _int8(every: RoundedCheckpoints, fitted: RoundedCheckpoints, last: IntArray) -> SmallDamage | None:
    others = fitted.only(np.array([name != "int8" for name in fitted.columns]))
    if "int8" not in every.columns or not others.columns:
        return None
    kappa, without = fit_square_law(others)
    own = every.only(np.array([name == "int8" for name in every.columns]))
    errors, damage = own.errors[0, last], own.damage[0, last]
    predicted = kappa[last] * errors
    if not (np.isfinite(damage).all() and np.isfinite(predicted).all()):
        return None
    without_last = own.without[0, last].mean(axis=0)
    lower, upper = _interval(float(damage.mean()), without_last)
    own_scatter = _mean_fit(others, kappa, without, last).scatter or 0.0
    law = max(own_scatter, TYPICAL_SCATTER) * abs(predicted.mean())  # a few variants may agree by luck
    allowed = math.hypot(
        half_width(without_last - (without[last] * errors[:, None]).mean(axis=0)) or 0.0,
        mean_half_width(damage - predicted),
        float(stats.norm.ppf((1 + LEVEL) / 2)) * law,
    )
    return SmallDamage(
        relative_error=float(np.sqrt(errors.mean())),
        predicted_nats=float(predicted.mean()),
        measured_nats=float(damage.mean()),
        lower=lower,
        upper=upper,
        agrees=bool(abs(damage.mean() - predicted.mean()) <= allowed),
    )


def _interval(estimate: float, without: FloatArray) -> tuple[float | None, float | None]:
    """95 % interval by the jackknife; (None, None) for one batch."""
    half = half_width(without)
    return (None, None) if half is None else (estimate - half, estimate + half)


def _sentence(end: KappaFit, growth: KappaGrowth | None, int8: SmallDamage | None) -> str:
    spread = (
        "" if end.scatter is None else f", over {end.n_variants} variants within {end.scatter:.0%} (one sd)"
    )
    told = (
        f"At the end rounding costs {end.kappa:.1f}{_range(end.lower, end.upper)} nats per squared relative "
    )
    told += f"weight error{spread}"
    if growth is not None:
        ratio = f"{growth.ratio:.2f}{_range(growth.lower, growth.upper, '.2f')}"
        told += f", {ratio} times as much as half way"
    return told + "." + ("" if int8 is None else " " + _int8_sentence(int8))


def _range(lower: float | None, upper: float | None, form: str = ".1f") -> str:
    return "" if lower is None or upper is None else f" [{lower:{form}}, {upper:{form}}]"


def _int8_sentence(found: SmallDamage) -> str:
    measured = f"{found.measured_nats:.5f}{_range(found.lower, found.upper, '.5f')}"
    whether = "the size that" if found.agrees else "not the size that"
    return (
        f"INT8, with a relative weight error of {found.relative_error:.2%}, costs {measured} nats there, {whether} the "
        f"square law predicts from the other variants ({found.predicted_nats:.5f})."
    )
