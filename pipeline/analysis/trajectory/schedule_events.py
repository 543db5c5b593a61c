"""Candidate events that an onset may follow: their steps, and their distances to it.

One trajectory cannot separate two events that coincide; then the answer is that the data cannot tell. Nor does it order
an onset and an event that lies within its interval, whichever of the two point estimates comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.analysis.statistics.curves import BoolArray, FloatArray, IntArray
from pipeline.analysis.trajectory.rate_response import AT_PEAK

FP32_PLATEAU = "fp32_plateau"
FP32_BEST = "fp32_best"
WARMUP_END = "warmup_end"
DECAY_START = "decay_start"
HALF_PEAK_LR = "half_peak_learning_rate"
MIN_LR = "min_learning_rate"
EVENT_WORDS = {
    FP32_PLATEAU: "the FP32 plateau",
    FP32_BEST: "the best FP32 loss",
    WARMUP_END: "the end of warm-up",
    DECAY_START: "the start of the learning-rate decay",
    HALF_PEAK_LR: "half of the peak learning rate",
    MIN_LR: "the minimum learning rate",
}
STABLE_SHARE = 0.05
"""A decay has a start of its own only after a rate that stayed at its peak for this share of the run. A cosine, clipped
or not, leaves its peak at the end of warm-up (a flat top of 2 % is the cosine's own), which is an event already, and
the peaks of warm restarts are not stable."""


@dataclass(frozen=True)
class Event:
    """An event of the run, or the reason why it did not happen."""

    name: str
    step: float | None
    """None: it did not happen; `reason` says why."""
    draws: FloatArray
    """Possible steps given the data, any length; infinite = did not happen in that replicate."""
    reason: str | None = None


@dataclass(frozen=True)
class Predictor:
    """One event compared with the onset, in steps, with intervals at the report's level; None = unknown."""

    event: str
    step: int | None = None
    step_ci: tuple[int, int] | None = None
    onset_minus_event: int | None = None
    onset_minus_event_ci: tuple[int, int] | None = None
    coincides: bool | None = None
    """Whether the interval of the difference holds 0."""
    reason: str | None = None


def absent(name: str, reason: str) -> Event:
    """An event that did not happen."""
    return Event(name, None, np.empty(0), reason)


def learning_rate_events(step: IntArray, learning_rate: FloatArray | None) -> list[Event]:
    """End of warm-up, start of the decay, half of the peak and the minimum, from the rates at the checkpoints (n,).

    A rate is known only at checkpoints: an event lies between the checkpoint before and the one that shows it, which
    its draws say. It is dated where the line through two checkpoints on its sloping side meets the level it reaches.
    """
    names = (WARMUP_END, DECAY_START, HALF_PEAK_LR, MIN_LR)
    if learning_rate is None or not np.any(np.isfinite(learning_rate)):
        return [absent(name, "no learning rate in the table") for name in names]
    known = np.isfinite(learning_rate)
    s, lr = step[known], learning_rate[known]
    peak = float(lr.max())
    at_peak = lr >= peak * (1 - AT_PEAK)
    top = int(np.argmax(at_peak))
    lowest = float(lr[top:].min())
    warm_up = _warm_up_end(s, lr, top)
    if np.all(at_peak[top:]):
        return [warm_up, *(absent(name, "the learning rate never decays") for name in names[1:])]
    half = np.flatnonzero(lr[top:] <= 0.5 * peak) + top
    low = int(np.flatnonzero(lr[top:] <= lowest * (1 + 1e-3) + 1e-9 * peak)[0]) + top
    return [
        warm_up,
        _decay_start(s, lr, at_peak),
        _between(HALF_PEAK_LR, s, half[0] - 1, _meets(s, lr, half[0] - 1, half[0], 0.5 * peak))
        if len(half)
        else absent(HALF_PEAK_LR, "the learning rate stays above half of its peak"),
        _between(MIN_LR, s, low - 1, _meets(s, lr, max(low - 2, top), low - 1, lowest)),
    ]


def _warm_up_end(step: IntArray, rate: FloatArray, top: int) -> Event:
    if top == 0:
        return absent(WARMUP_END, "the learning rate is at its peak at the first checkpoint")
    return _between(WARMUP_END, step, top - 1, _meets(step, rate, max(top - 2, 0), top - 1, float(rate[top])))


def _decay_start(step: IntArray, rate: FloatArray, at_peak: BoolArray) -> Event:
    """Step at which the rate finally leaves a stable peak; at_peak: (n,), some True, some False later."""
    last = int(np.flatnonzero(at_peak)[-1])
    below = np.flatnonzero(~at_peak[:last])
    first = int(below[-1]) + 1 if len(below) else 0
    if last == len(step) - 1:
        return absent(DECAY_START, "the learning rate is back at its peak at the end")
    if step[last] - step[first] < STABLE_SHARE * (step[-1] - step[0]):
        return absent(DECAY_START, "the learning rate has no stable peak to decay from")
    beyond = min(last + 2, len(step) - 1)
    return _between(DECAY_START, step, last, _meets(step, rate, last + 1, beyond, float(rate[last])))


def _meets(step: IntArray, rate: FloatArray, one: int, other: int, level: float) -> float:
    """Step at which the line through two checkpoints meets a level; NaN where it never does."""
    rise = float(rate[other] - rate[one])
    if rise == 0:
        return float("nan")
    return float(step[one]) + (level - float(rate[one])) / rise * float(step[other] - step[one])


def _between(name: str, step: IntArray, index: int, at: float) -> Event:
    """An event between a checkpoint and the next, dated there; half-way between them if its place is unknown."""
    before, after = float(step[max(index, 0)]), float(step[index + 1])
    when = 0.5 * (before + after) if np.isnan(at) else float(np.clip(at, before, after))
    return Event(name, when, np.linspace(before, after, 11))


def compare(
    onset: float | None, onset_draws: FloatArray, event: Event, level: float, spacing: float
) -> Predictor:
    """Onset minus one event, with an interval from independent draws, widened by one checkpoint spacing.

    onset: step or None; onset_draws: (m,) steps; spacing: typical steps between checkpoints.
    """
    if event.step is None:
        return Predictor(event.name, reason=event.reason)
    step_ci = interval(event.draws, level)
    if onset is None:
        return Predictor(event.name, round(event.step), step_ci, reason="no onset")
    m = min(len(onset_draws), 2000)
    theirs = np.resize(event.draws, m) if len(event.draws) >= 2 else np.full(m, event.step)
    difference = interval(onset_draws[:m] - theirs, level, -spacing, spacing)
    coincides = None if difference is None else difference[0] <= 0 <= difference[1]
    return Predictor(event.name, round(event.step), step_ci, round(onset - event.step), difference, coincides)


def interval(
    draws: FloatArray, level: float, pad_low: float = 0.0, pad_high: float = 0.0
) -> tuple[int, int] | None:
    """Equal-tailed interval of draws, whole steps; None where a tail never happens (infinite)."""
    if not len(draws):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], method="inverted_cdf")
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    return int(np.floor(low + pad_low)), int(np.ceil(high + pad_high))


class Follows(StrEnum):
    """What the onset follows: an event, a response to the learning rate, or why none is named."""

    FP32_PLATEAU = FP32_PLATEAU
    FP32_BEST = FP32_BEST
    WARMUP_END = WARMUP_END
    DECAY_START = DECAY_START
    HALF_PEAK_LR = HALF_PEAK_LR
    MIN_LR = MIN_LR
    LEARNING_RATE = "learning_rate"
    """The gap grows as the rate falls, and nothing is detected beyond it."""
    CANNOT_TELL = "cannot tell"
    """Several lie within the interval of the difference."""
    NONE = "none"
    """No event does."""
    NO_ONSET = "no onset"


@dataclass(frozen=True)
class Predictors:
    """All events against the onset, and the verdict."""

    follows: Follows | None = None
    """None only in reports of earlier releases, where there was no onset."""
    reason: str = ""
    """Why, in a clause."""
    coincide: tuple[str, ...] = ()
    """Every event that the data cannot tell from the onset."""
    events: tuple[Predictor, ...] = ()


def judge(onset: float | None, predictors: list[Predictor]) -> Predictors:
    """The onset follows an event that alone lies within the interval of the difference."""
    together = tuple(p.event for p in predictors if p.coincides)
    words = " and ".join(EVENT_WORDS[event] for event in together)
    if onset is None:
        follows, reason = Follows.NO_ONSET, "there is no onset"
    elif not together:
        follows, reason = Follows.NONE, "no candidate event lies within its interval"
    elif len(together) > 1:
        follows, reason = Follows.CANNOT_TELL, f"{words} lie within its interval"
    else:
        follows, reason = Follows(together[0]), f"{words} alone lies within its interval"
    return Predictors(follows, reason, together, tuple(predictors))


def judge_response(candidate: Predictors | None, events: list[Predictor]) -> Predictors:
    """The verdict for growth that a response to the learning rate explains.

    candidate: the events against the step from which time alone would have it grow; None without such a step. The start
    of the decay is named where it alone lies there: the rate itself breaks at it.
    """
    found = () if candidate is None else candidate.coincide
    fp32 = [EVENT_WORDS[event] for event in found if event in (FP32_PLATEAU, FP32_BEST)]
    if found == (DECAY_START,):
        follows = Follows.DECAY_START
        reason = (
            "the gap grows as the rate falls, from where the decay starts; nothing is detected beyond that"
        )
    elif fp32:
        follows = Follows.CANNOT_TELL
        reason = f"the gap grows as the rate falls, and {' and '.join(fp32)} lies where it would take off"
    else:
        follows = Follows.LEARNING_RATE
        reason = "the gap grows as the rate falls; nothing is detected beyond that"
    return Predictors(follows, reason, found, tuple(events))
