"""``constant``: the rate at the fork throughout."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.train.schedules.schedule import register
from pipeline.train.schedules.warmed import WarmedSchedule


@register
@dataclass(frozen=True)
class Constant(WarmedSchedule):
    """``peak_lr`` from the end of the warm-up on; ``min_lr`` is not used.

    >>> [Constant(100, 1.0, 0.1, 10)(step) for step in (0, 5, 10, 100)]
    [0.0, 0.5, 1.0, 1.0]
    """

    name = "constant"

    def __call__(self, step: int) -> float:
        # Divides first, unlike the other warm-ups, so that the rounding equals that of the published runs.
        return self.peak_lr * min(1.0, step / self.warmup_steps) if self.warmup_steps else self.peak_lr

    def warm_rate(self, step: int) -> float:  # noqa: ARG002 - constant
        return self.peak_lr

    def warm_phase(self, step: int) -> str:  # noqa: ARG002 - one phase
        return "stable"
