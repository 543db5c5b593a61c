"""``wsd``: warm-up, stable, decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.train.schedules.schedule import ForkRates, Parameter, fraction_problem, register
from pipeline.train.schedules.warmed import WarmedSchedule


@register
@dataclass(frozen=True)
class WarmupStableDecay(WarmedSchedule):
    """``peak_lr``, then linear to ``min_lr`` over the last ``decay_fraction`` of the steps.

    Source: Hu et al. 2024 (MiniCPM, arXiv 2404.06395), section 4, with the linear decay of Hagele et al. 2024
    (arXiv 2405.18392).

    >>> [f"{WarmupStableDecay(100, 1.0, 0.0, 10)(step):.2f}" for step in (5, 50, 80, 90, 100)]
    ['0.50', '1.00', '1.00', '0.50', '0.00']
    """

    name = "wsd"
    title = "WSD"
    parameters = (
        Parameter(
            "decay_fraction",
            "share of the run in which the rate falls to 0",
            0.2,
            problem=fraction_problem("decay_fraction"),
        ),
    )

    decay_fraction: float = 0.2

    def warm_rate(self, step: int) -> float:
        decay_steps = max(1.0, self.decay_fraction * self.steps)
        left = min(1.0, max(0.0, (self.steps - step) / decay_steps))
        return self.min_lr + (self.peak_lr - self.min_lr) * left

    def warm_phase(self, step: int) -> str:
        return "stable" if step <= self.steps - max(1.0, self.decay_fraction * self.steps) else "decay"

    @classmethod
    def from_fork(cls, rates: ForkRates, values: Mapping[str, float]) -> WarmupStableDecay:
        return cls(rates.steps, rates.base_lr, 0.0, 0, values["decay_fraction"])
