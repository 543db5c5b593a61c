"""``cosine``: the usual cosine, and the baseline of a fork experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.train.schedules.schedule import FINAL, register
from pipeline.train.schedules.warmed import WarmedSchedule


@register
@dataclass(frozen=True)
class Cosine(WarmedSchedule):
    """Cosine from ``peak_lr`` to ``min_lr``, reached at ``steps``.

    min + (peak - min)/2 * (1 + cos(pi * t)), t = (step - warmup)/(steps - warmup). Source: Hoffmann et al.
    2022 (arXiv 2203.15556), with min = peak/10; Loshchilov & Hutter 2016 (arXiv 1608.03983), eq. 5, for one
    cycle.

    >>> [f"{Cosine(110, 1.0, 0.1, 10)(step):.3f}" for step in (0, 5, 10, 60, 110)]
    ['0.000', '0.500', '1.000', '0.550', '0.100']
    """

    name = "cosine"
    parameters = (FINAL,)

    def warm_rate(self, step: int) -> float:
        done = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        return self.min_lr + (self.peak_lr - self.min_lr) / 2 * (1 + math.cos(math.pi * done))

    def warm_phase(self, step: int) -> str:  # noqa: ARG002 - one phase
        return "decay"
