"""Simulated damages and controls whose three factors are known at every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses


@dataclass(frozen=True)
class TrueGrowth:
    """How many times each factor is at the end what it was in the first half; noises as shares of the damage."""

    error_size: float = 1.0
    sensitivity: float = 1.0
    alignment: float = 1.0
    luck: float = 0.06
    """Of one checkpoint's rounding, to first order: it changes its sign with the error."""
    quiet_luck: float = 0.02
    """The same of the even part."""
    memory: float = 0.0
    """Correlation of the luck of neighbouring checkpoints."""
    draw: float = 0.06
    """Of one seed's signs."""
    text: float = 0.25
    """Of one batch; half of it is the same for the damage and its controls."""
    n_checkpoints: int = 60
    n_draws: int = 8
    n_batches: int = 32

    @property
    def shares(self) -> FloatArray:
        """Of the logarithm of the damage's growth; NaN where it does not grow."""
        logs = np.log([self.error_size, self.sensitivity, self.alignment])
        return np.asarray(logs / logs.sum() if logs.sum() else np.full(3, np.nan))


def simulated_run(truth: TrueGrowth, seed: int) -> ControlLosses:
    """One run: flat for its first half, then each factor grows in a straight line to 90 % and stays."""
    rng = np.random.default_rng(seed)
    n, s, b = truth.n_checkpoints, truth.n_draws, truth.n_batches
    step = np.arange(1, n + 1) * 100
    course = np.clip((np.arange(n) / (n - 1) - 0.5) / 0.4, 0, 1)
    size = 0.011 * (1 + (truth.error_size - 1) * course)
    sensitivity = 5.0 * (1 + (truth.sensitivity - 1) * course)
    alignment = 1.0 * (1 + (truth.alignment - 1) * course)
    luck = rng.standard_normal(n)
    for index in range(1, n):
        luck[index] = truth.memory * luck[index - 1] + np.sqrt(1 - truth.memory**2) * luck[index]
    common = rng.standard_normal(b)
    own = [rng.standard_normal(b) for _ in range(2)]
    damage_text, noise_text = (1 + truth.text * np.sqrt(0.5) * (common + each) for each in own)
    drawn = 1 + truth.draw * (rng.standard_normal((1, s)) + rng.standard_normal((n, s))) / np.sqrt(2)
    noise = size * sensitivity
    signs_TSB = noise[:, None, None] * drawn[:, :, None] * noise_text
    even_TB = (noise * alignment * (1 + truth.quiet_luck * rng.standard_normal(n)))[:, None] * damage_text
    odd_TB = (noise * alignment * truth.luck * luck)[:, None] * damage_text
    fp32_TB = 2.0 + 0.3 * rng.standard_normal(b) + np.zeros((n, 1))
    line = {a: a * odd_TB + a * a * even_TB for a in (-1.0, -0.5, 0.5, 2.0)}
    return ControlLosses("int4", step, size, fp32_TB, odd_TB + even_TB, signs_TSB, line)
