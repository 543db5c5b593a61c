"""Candidate causes of an onset: when they happen, and how far from it.

One trajectory cannot separate two events that coincide; then the answer is that the data cannot tell. An effect does
not come before its cause, so an onset that is estimated before the only event that coincides does not follow it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.curves import BoolArray, FloatArray, IntArray

Json = dict[str, object]
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
AT_PEAK = 1e-3
"""A learning rate within this share of its peak is at it."""
STABLE_SHARE = 0.05
"""A decay has a start of its own only after a rate that stayed at its peak for this share of the run. A cosine, clipped
or not, leaves its peak at the end of warm-up (a flat top of 2 % is the cosine's own), which is an event already, and
the peaks of warm restarts are not stable."""


@dataclass(frozen=True)
class Event:
    """Something that happened in the run, or the reason why it did not."""

    name: str
    step: float | None
    """None: it did not happen; `reason` says why."""
    draws: FloatArray
    """Possible steps given the data, any length; infinite = did not happen in that replicate."""
    reason: str | None = None


@dataclass(frozen=True)
class Predictor:
    """One event against the onset, in steps, intervals at the report's level; None = nothing to say."""

    event: str
    step: int | None
    step_ci: tuple[int, int] | None
    onset_minus_event: int | None
    onset_minus_event_ci: tuple[int, int] | None
    coincides: bool | None
    """Whether the interval of the difference holds 0."""
    reason: str | None

    def to_json(self) -> Json:
        """One entry of `predictors.events` in report.json."""
        return {
            "event": self.event,
            "step": self.step,
            "step_ci": None if self.step_ci is None else list(self.step_ci),
            "onset_minus_event": self.onset_minus_event,
            "onset_minus_event_ci": None
            if self.onset_minus_event_ci is None
            else list(self.onset_minus_event_ci),
            "coincides": self.coincides,
            "reason": self.reason,
        }


def learning_rate_events(step: IntArray, learning_rate: FloatArray | None) -> list[Event]:
    """End of warm-up, start of the decay, half of the peak and the minimum, from the rates at the checkpoints (n,).

    A rate is known only at checkpoints: an event lies between the checkpoint before and the one that shows
    it. The decay starts at the last checkpoint at the peak, or before the one after it.
    """
    names = (WARMUP_END, DECAY_START, HALF_PEAK_LR, MIN_LR)
    if learning_rate is None or not np.any(np.isfinite(learning_rate)):
        return [Event(n, None, np.empty(0), "no learning rate in the table") for n in names]
    known = np.isfinite(learning_rate)
    s, lr = step[known], learning_rate[known]
    peak = float(lr.max())
    at_peak = lr >= peak * (1 - AT_PEAK)
    top = int(np.argmax(at_peak))
    lowest = float(lr[top:].min())
    if np.all(at_peak[top:]):
        flat = "the learning rate never decays"
        return [_between(WARMUP_END, s, top)] + [Event(n, None, np.empty(0), flat) for n in names[1:]]
    half = np.flatnonzero(lr[top:] <= 0.5 * peak) + top
    low = np.flatnonzero(lr[top:] <= lowest * (1 + 1e-3) + 1e-9 * peak) + top
    return [
        _between(WARMUP_END, s, top),
        _decay_start(s, at_peak),
        _between(HALF_PEAK_LR, s, int(half[0]))
        if len(half)
        else Event(HALF_PEAK_LR, None, np.empty(0), "the learning rate stays above half of its peak"),
        _between(MIN_LR, s, int(low[0])),
    ]


def _decay_start(step: IntArray, at_peak: BoolArray) -> Event:
    """The last step before the rate leaves a stable peak for good; at_peak: (n,), some True, some False later."""
    last = int(np.flatnonzero(at_peak)[-1])
    below = np.flatnonzero(~at_peak[:last])
    first = int(below[-1]) + 1 if len(below) else 0
    if last == len(step) - 1:
        return Event(DECAY_START, None, np.empty(0), "the learning rate is back at its peak at the end")
    if step[last] - step[first] < STABLE_SHARE * step[-1]:
        return Event(DECAY_START, None, np.empty(0), "the learning rate has no stable peak to decay from")
    return Event(DECAY_START, float(step[last]), np.linspace(float(step[last]), float(step[last + 1]), 11))


def _between(name: str, step: IntArray, index: int) -> Event:
    before = float(step[max(index - 1, 0)])
    return Event(name, float(step[index]), np.linspace(before, float(step[index]), 11))


def compare(
    onset: float | None, onset_draws: FloatArray, event: Event, level: float, spacing: float
) -> Predictor:
    """Onset minus one event, with an interval from independent draws, widened by one checkpoint spacing.

    onset: step or None; onset_draws: (m,) steps; spacing: typical steps between checkpoints.
    """
    if event.step is None:
        return Predictor(event.name, None, None, None, None, None, event.reason)
    step_ci = interval(event.draws, level)
    if onset is None:
        return Predictor(event.name, round(event.step), step_ci, None, None, None, "no onset")
    m = min(len(onset_draws), 2000)
    theirs = np.resize(event.draws, m) if len(event.draws) >= 2 else np.full(m, event.step)
    difference = interval(onset_draws[:m] - theirs, level, -spacing, spacing)
    coincides = None if difference is None else difference[0] <= 0 <= difference[1]
    return Predictor(
        event.name, round(event.step), step_ci, round(onset - event.step), difference, coincides, None
    )


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


@dataclass(frozen=True)
class Predictors:
    """All events against the onset, and the verdict."""

    follows: str | None
    """The name of the only event that coincides, if the onset is not estimated before it; None (null) if it is: an
    effect does not come before its cause. `cannot tell` (several coincide), `none` (none does) or `no onset`."""
    coincide: tuple[str, ...]
    """Every event that the data cannot tell from the onset."""
    events: tuple[Predictor, ...]

    def to_json(self) -> Json:
        """The value of `predictors` in report.json."""
        return {
            "follows": self.follows,
            "coincide": list(self.coincide),
            "events": [e.to_json() for e in self.events],
        }


def judge(onset: float | None, predictors: list[Predictor]) -> Predictors:
    """The onset follows an event that alone lies within the interval of the difference, and not after the onset."""
    together = [p for p in predictors if p.coincides]
    follows: str | None
    if onset is None:
        follows = "no onset"
    elif not together:
        follows = "none"
    elif len(together) > 1:
        follows = "cannot tell"
    else:
        follows = together[0].event if (together[0].onset_minus_event or 0) >= 0 else None
    return Predictors(follows, tuple(p.event for p in together), tuple(predictors))
