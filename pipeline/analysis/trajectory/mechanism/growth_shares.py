"""How much of a growth of the damage each factor contributed, and the rule that names the cause.

A window's damage, noise and error size are means over its checkpoints, so that the identity of the three factors
(``control_losses``) holds for windows as it does for checkpoints, and the growth between two windows is the sum

    log D(end) / D(first) = growth of log error_size + of log sensitivity + of log alignment.

A factor's share is its part of that sum; the three add up to 1.

**The rule**, written before any result: with a growth whose interval lies above 0, a factor is *the* cause if the
interval of its share lies above one half and those of the two others below it. Else the data cannot tell.

**Intervals** are percentiles of a bootstrap in which every replicate draws anew, the same for both windows and all
factors, so that what they share cancels:

- blocks of neighbouring batches of text (``statistics.bootstrap``), the same for every loss;
- the seeds of the random signs, the same for every checkpoint;
- the checkpoints' luck: what is left of damage, noise and error size, kept together, of a straight line through each
  window's checkpoints, widened where neighbouring checkpoints are alike (``statistics.noise.memory``).

A bootstrap of few units spreads too little: each kind of weight is stretched about its mean so that with it alone the
interval would be Student's t. ``python -m tests.analysis.trajectory.mechanism_rates`` measures the coverage and how
often a cause is named wrongly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.analysis.statistics.bootstrap import batch_weights, block_length
from pipeline.analysis.statistics.curves import BoolArray, FloatArray
from pipeline.analysis.statistics.intervals import LEVEL, Bounded, percentiles, stretched
from pipeline.analysis.statistics.noise import memory, smoother
from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.control_losses import FACTORS, ControlLosses

N_REPLICATES = 2_000
FEWEST = 3
"""Usable checkpoints that a window needs: fewer say nothing about their luck."""
COURSE_SHARE = 0.25
"""Share of the checkpoints that the course is smoothed over to see how much neighbours are alike."""
HIDDEN = 1.5
"""True memory over what is left of it beside the smooth course, on simulated runs of 60 and 150 checkpoints."""
HALF = 0.5
"""Share that the cause's interval lies above and the others' below."""


class Cause(StrEnum):
    """Cause of the damage's growth."""

    ERROR_SIZE = "error_size"
    SENSITIVITY = "sensitivity"
    ALIGNMENT = "alignment"
    CANNOT_TELL = "cannot tell"
    NO_GROWTH = "no growth"
    """The damage did not clearly grow, so there is nothing to explain."""


@dataclass(frozen=True)
class FactorGrowth:
    """One factor in two windows."""

    name: str
    before: Bounded
    end: Bounded
    times: Bounded
    """end / before."""
    share: Bounded | None
    """Part of the logarithm of the damage's growth; None where that is not clearly above 0."""


@dataclass(frozen=True)
class GrowthShares:
    """The growth of one variant's damage between two windows, factor by factor."""

    first: Window
    last: Window
    n_first: int
    """Usable checkpoints of the window."""
    n_last: int
    n_batches: int
    n_draws: int
    damage_before: Bounded
    """Nats per token."""
    damage_end: Bounded
    times: Bounded
    """damage_end / damage_before."""
    factors: tuple[FactorGrowth, ...]
    """In the order of ``FACTORS``."""
    cause: Cause
    reason: str
    """Reason of the verdict, as a clause."""


@dataclass(frozen=True)
class NoShares:
    """Why a growth cannot be split."""

    reason: str


def split_growth(
    losses: ControlLosses, first: Window, last: Window, *, seed: int = 0
) -> GrowthShares | NoShares:
    """The growth of the damage from window ``first`` to window ``last``, split by the rule of this module."""
    usable = losses.usable
    rows = [usable & (losses.step >= w.first) & (losses.step <= w.last) for w in (first, last)]
    counts = [int(each.sum()) for each in rows]
    for window, count in zip((first, last), counts, strict=True):
        if count < FEWEST:
            return NoShares(
                f"{count} checkpoints from step {window.first:,} to {window.last:,} have finite controls, at least "
                f"{FEWEST} are needed"
            )
    means = _replicates(losses, rows, np.random.default_rng(seed))
    tail = (1 - LEVEL) / 2
    if (lowest := np.quantile(means[:, :2, 1:], tail, axis=-1)).min() <= 0:
        index = int(np.argmin(lowest.min(axis=1)))
        return NoShares(f"the damage in the {('first', 'last')[index]} window cannot be told from 0")
    with np.errstate(invalid="ignore", divide="ignore"):
        damage, noise, size = (np.log(means[:, k]) for k in range(3))
    logs = np.stack([size, noise - size, damage - noise], axis=1)
    grown = logs[1] - logs[0]
    total = damage[1] - damage[0]
    whole = _bounded(total)
    shares: list[Bounded | None] = [None] * len(FACTORS)
    if whole.lower > 0:
        shares = [_bounded(part / total) for part in grown]
    factors = tuple(
        FactorGrowth(
            name,
            _bounded(logs[0, k]).exp(),
            _bounded(logs[1, k]).exp(),
            _bounded(grown[k]).exp(),
            shares[k],
        )
        for k, name in enumerate(FACTORS)
    )
    cause, reason = judge_cause(whole, shares)
    return GrowthShares(
        first=first,
        last=last,
        n_first=counts[0],
        n_last=counts[1],
        n_batches=losses.damage_TB.shape[1],
        n_draws=losses.signs_TSB.shape[1],
        damage_before=_bounded(damage[0]).exp(),
        damage_end=_bounded(damage[1]).exp(),
        times=whole.exp(),
        factors=factors,
        cause=cause,
        reason=reason,
    )


def judge_cause(log_growth: Bounded, shares: list[Bounded | None]) -> tuple[Cause, str]:
    """The rule, for the logarithm of the growth and the shares of the factors in their order."""
    known = [share for share in shares if share is not None]
    if log_growth.lower <= 0 or len(known) < len(FACTORS):
        return Cause.NO_GROWTH, "the interval of the growth reaches down to 1"
    for index, share in enumerate(known):
        others = [other for place, other in enumerate(known) if place != index]
        if share.lower > HALF and all(other.upper < HALF for other in others):
            return Cause(FACTORS[index]), "its share alone lies above one half"
    return Cause.CANNOT_TELL, "no share lies above one half with both others below it"


def _replicates(losses: ControlLosses, rows: list[BoolArray], rng: np.random.Generator) -> FloatArray:
    """Mean damage, noise and error size of each window, (2, 3, 1 + N_REPLICATES): first as measured, then redrawn."""
    n_batches, n_draws = losses.damage_TB.shape[1], losses.signs_TSB.shape[1]
    blocks = n_batches // block_length(n_batches)
    text = stretched(batch_weights(rng, n_batches, N_REPLICATES), blocks)
    seeds = stretched(_counted(rng, n_draws), n_draws)
    alike = _memory(losses, rows)
    wider = math.sqrt((1 + alike) / (1 - alike))
    found = []
    for own in rows:
        damage = losses.damage_TB[own].mean(axis=0) @ text
        noise = (seeds * (losses.signs_TSB[own].mean(axis=0) @ text)).sum(axis=0)
        size = np.full(damage.shape, losses.error_size[own].mean())
        found.append(np.stack([damage, noise, size]) + wider * _luck(losses, own, rng))
    return np.stack(found)


def _luck(losses: ControlLosses, own: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Deviations of a window's means from the scatter of its checkpoints, (3, 1 + N_REPLICATES)."""
    at = losses.step[own].astype(np.float64)
    values = np.stack([losses.damage[own], losses.noise[own], losses.error_size[own]], axis=1)
    design = np.stack([np.ones(len(at)), at - at.mean()], axis=1)
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    n = len(at)
    df = max(n - 2, 1)
    return left.T @ stretched(_counted(rng, n), df + 1) * math.sqrt((n - 1) / df)


def _memory(losses: ControlLosses, rows: list[BoolArray]) -> float:
    """How much the luck of neighbouring checkpoints is alike, from the course of the log damage over both windows."""
    damage = losses.damage
    start, end = (np.flatnonzero(each) for each in rows)
    whole = losses.usable & (damage > 0)
    whole[: start[0]] = whole[end[-1] + 1 :] = False
    if whole.sum() < FEWEST:
        return 0.0
    at, course = losses.step[whole].astype(np.float64), np.log(damage[whole])
    smooth_by = smoother((at - at[0]) / (at[-1] - at[0]), max(5, round(COURSE_SHARE * len(at))))
    shown = memory(course - smooth_by @ course, float(np.trace(smooth_by)))
    return min(HIDDEN * shown, 0.9)


def _counted(rng: np.random.Generator, n: int) -> FloatArray:
    """Shares of n units drawn with replacement, (n, N_REPLICATES)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=N_REPLICATES).T / n


def _bounded(values: FloatArray) -> Bounded:
    """The first of ``values``, with percentiles of the others; one that is not a number lies at the far ends."""
    return Bounded(float(values[0]), *percentiles(values[1:][np.isfinite(values[1:])]))
