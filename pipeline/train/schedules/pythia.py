"""``pythia``: Pythia's own cosine."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.suites.training_settings import clipped_cosine
from pipeline.train.schedules.schedule import FINAL, register
from pipeline.train.schedules.warmed import WarmedSchedule


@register
@dataclass(frozen=True)
class Pythia(WarmedSchedule):
    """Cosine to zero over ``steps``, clipped at ``min_lr``: see :func:`pipeline.suites.clipped_cosine`."""

    name = "pythia"
    parameters = (FINAL,)

    def warm_rate(self, step: int) -> float:
        return clipped_cosine(
            step, steps=self.steps, peak_lr=self.peak_lr, min_lr=self.min_lr, warmup_steps=self.warmup_steps
        )

    def warm_phase(self, step: int) -> str:
        return "decay" if self(step) > self.min_lr else "minimum"
