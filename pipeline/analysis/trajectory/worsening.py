"""The alarm rule for training: the quantized model's loss has become worse than its best by a margin.

Checkpoints come one at a time. The rule watches y_i, the mean loss of the quantized model at checkpoint i on fixed
text, and never the gap, which may grow while y still falls. A paired test over texts would not do: checkpoints scatter
by as much again as the text's error (0.003 to 0.005 nats), and the best so far is a selected minimum.

1. The reference r is the lowest mean of ``WINDOW`` consecutive past checkpoints. s and rho are the level and the memory
   of the scatter in the last ``RECENT`` checkpoints; f = sqrt((1 + rho) / (1 - rho)) widens s for the memory. While a
   worsening is suspected they stay as they were before it: the rise itself would look like memory, and delay the alarm.
2. z_i = (y_i - r - margin - SELECTION s f / sqrt(WINDOW)) / (s f sqrt(1 + 1 / WINDOW)), at most ``CAP``: no single
   checkpoint can raise an alarm. The third term pays for the reference being a selected minimum.
3. ``e-detector``: M_i = (1 / N) sum over starts j <= i, mean over lambda, of the product over k = j..i of
   exp(lambda z_k - lambda^2 / 2); alarm when M_i >= 1 / alpha. With N planned checkpoints and z sub-Gaussian with
   mean <= 0 given the past, an alarm in a run that never worsens has probability at most alpha (Ville's inequality;
   Shin, Ramdas and Rinaldo's e-detectors). s and rho are estimated, so this is approximate, and
   ``python -m tests.analysis.trajectory.alarms`` is the evidence.
   ``cusum``: S_i = max(0, S_{i-1} + z_i - 0.25), alarm at 6.

An alarm says "worse than its best by more than the margin since about step j". It is not advice to stop: a fall of
the learning rate may still gain more than was lost.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.noise import FLOOR, memory
from pipeline.base.errors import UsageError

Rule = Literal["e-detector", "cusum"]

WINDOW = 5
RECENT = 40
SELECTION = 1.3
CAP = 3.0
LAMBDAS = (0.25, 0.5, 1.0)
CUSUM_SLACK, CUSUM_LIMIT = 0.25, 6.0
MIN_PAST = 8
"""Checkpoints before the first judged one: fewer do not show the scatter."""


@dataclass(frozen=True)
class Alarm:
    """The loss compared with its best."""

    step: int
    worse_since: int
    """Step at which the worsening most likely began."""


class Worsening:
    """The rule's state; feed it with :meth:`observe`."""

    def __init__(
        self, planned: int, *, margin_nats: float = 0.01, alpha: float = 0.05, rule: Rule = "e-detector"
    ) -> None:
        """``planned``: checkpoints of the whole run; ``alpha``: chance of a false alarm in it."""
        if planned < 1 or not 0 <= margin_nats < math.inf or not 0 < alpha < 1:
            raise UsageError(
                f"planned {planned}, margin {margin_nats} nats, alpha {alpha}: wanted 1 checkpoint at least, a "
                "finite margin of 0 or more and alpha between 0 and 1"
            )
        self._planned, self._margin, self._alpha, self._rule = planned, margin_nats, alpha, rule
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._lowest_mean = math.inf
        self._sums = np.zeros(len(LAMBDAS))
        self._cusum = 0.0
        self._log_ratio, self._since = 0.0, 0
        """Evidence of a worsening that is under way (not above 0: there is none), and its first step."""
        self._scatter = (math.nan, math.nan)
        """Standard deviation and memory of the checkpoints before it."""
        self.alarm: Alarm | None = None
        """The first alarm; it stays."""
        self.evidence = 0.0
        """M, or S of ``cusum``, after the last checkpoint."""

    @property
    def limit(self) -> float:
        """The evidence that raises an alarm."""
        return 1 / self._alpha if self._rule == "e-detector" else CUSUM_LIMIT

    def observe(self, step: int, loss_nats: float, *, planned: int | None = None) -> Alarm | None:
        """Add the checkpoint at ``step``; return the alarm of the run so far.

        ``planned``: current estimate of the checkpoints of the whole run; None = as before. A loss that is not
        finite is skipped: a diverged evaluation is no evidence of a slow worsening.
        """
        self._planned = planned or self._planned
        if not math.isfinite(loss_nats):
            return self.alarm
        if len(self._recent) >= MIN_PAST:
            self._judge(step, loss_nats)
        self._recent.append(loss_nats)
        if len(self._recent) >= WINDOW:
            self._lowest_mean = min(self._lowest_mean, float(np.mean(list(self._recent)[-WINDOW:])))
        return self.alarm

    def _judge(self, step: int, loss_nats: float) -> None:
        if self._log_ratio <= 0:
            self._scatter = scatter(np.array(self._recent))
        sd, rho = self._scatter
        wide = sd * math.sqrt((1 + rho) / (1 - rho))
        excess = loss_nats - self._lowest_mean - self._margin - SELECTION * wide / math.sqrt(WINDOW)
        z = min(excess / (wide * math.sqrt(1 + 1 / WINDOW)), CAP)
        growth = np.exp(np.array(LAMBDAS) * z - np.square(LAMBDAS) / 2)
        self._sums = np.minimum((self._sums + 1) * growth, 1e300)
        self._cusum = max(0.0, self._cusum + z - CUSUM_SLACK)
        if self._log_ratio <= 0:
            self._since = step
        self._log_ratio = max(0.0, self._log_ratio + 0.5 * z - 0.125)
        by_rule = {"e-detector": float(self._sums.mean()) / self._planned, "cusum": self._cusum}
        self.evidence = by_rule[self._rule]
        if self.alarm is None and self.evidence >= self.limit:
            self.alarm = Alarm(step, self._since)


def scatter(recent: FloatArray) -> tuple[float, float]:
    """Standard deviation and lag-1 memory of the scatter of ``recent`` losses (n,) around their slow course.

    The level comes from the median absolute second difference, of variance sd^2 (6 - 8 rho + 2 rho^2), so that neither
    a trend nor a spike moves it; the memory from residuals of a parabola, spikes cut.
    """
    second = np.diff(recent, 2)
    rough = max(float(np.median(np.abs(second))) / 0.6745, FLOOR)
    at = np.linspace(-1, 1, len(recent))
    centre = np.polynomial.Polynomial.fit(at, recent, 2)(at)
    residual = recent - centre
    reach = 3 * max(float(np.median(np.abs(residual - np.median(residual)))) / 0.6745, FLOOR)
    rho = memory(np.clip(residual, -reach, reach), 3)
    return rough / math.sqrt(6 - 8 * rho + 2 * rho**2), rho
