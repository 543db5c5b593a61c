"""Settings of the training run behind a suite, for the events that an onset may follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a run; None = not known."""

    steps: int | None = None
    """Optimizer steps of the whole run."""
    tokens_per_step: int | None = None
    schedule: str | None = None
    """Name of a registered schedule (``pipeline.train.schedules``)."""
    peak_lr: float | None = None
    min_lr: float | None = None
    warmup_steps: int | None = None
    """Updates after which the learning rate is at its peak."""
    decay_steps: int | None = None
    """Step at which the rate would reach its minimum, if the run ended before; None = ``steps``."""

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> TrainingSettings:
        """Read the settings from the recipe in a suite.json, which uses the names of ``pipeline.train.Recipe``.

        A setting of another type, or below 0, counts as not stated: recipes are not trusted.
        """
        given = {name: recipe.get(name) for name in _TYPES}
        return cls(**{name: value for name, value in given.items() if _is(value, _TYPES[name])})


def clipped_cosine(step: int, *, steps: int, peak_lr: float, min_lr: float, warmup_steps: int) -> float:
    """Pythia's learning rate for the update after ``step`` updates.

    Linear warm-up from 0, then peak/2 * (1 + cos(pi * (step - warmup) / steps)), never below ``min_lr``: the
    cosine goes to zero over ``steps`` (not ``steps - warmup``) and is clipped. Source: gpt-neox v1.0
    ``learning_rates.py``, ``AnnealingLR.get_lr``; gpt-neox#1008.

    >>> pythia = dict(steps=143_000, peak_lr=6e-4, min_lr=6e-5, warmup_steps=1430)
    >>> [f"{clipped_cosine(step, **pythia):.3g}" for step in (0, 1430, 60_000, 100_000, 115_000, 143_000)]
    ['0', '0.0006', '0.000384', '0.000132', '6.06e-05', '6e-05']
    """
    if step < warmup_steps:
        return peak_lr * step / warmup_steps
    return max(min_lr, peak_lr / 2 * (1 + math.cos(math.pi * (step - warmup_steps) / steps)))


def warm_cosine(step: int, *, steps: int, peak_lr: float, min_lr: float, warmup_steps: int) -> float:
    """The usual cosine: linear warm-up from 0, then from the peak to ``min_lr`` at ``steps``, and flat after it.

    Source: OLMo's ``CosWithWarmup`` (allenai/OLMo ``olmo/optim.py``).

    >>> olmo = dict(steps=1_192_093, peak_lr=3e-4, min_lr=3e-5, warmup_steps=2000)
    >>> [f"{warm_cosine(step, **olmo):.3g}" for step in (0, 1000, 2000, 597_046, 928_646, 1_200_000)]
    ['0', '0.00015', '0.0003', '0.000165', '6.14e-05', '3e-05']
    """
    if step < warmup_steps:
        return peak_lr * step / warmup_steps
    share = min(1.0, (step - warmup_steps) / (steps - warmup_steps))
    return min_lr + (peak_lr - min_lr) * (1 + math.cos(math.pi * share)) / 2


_TYPES: dict[str, type | UnionType] = {
    "steps": int,
    "tokens_per_step": int,
    "schedule": str,
    "peak_lr": int | float,
    "min_lr": int | float,
    "warmup_steps": int,
}


def _is(value: Any, kind: type | UnionType) -> bool:
    if isinstance(value, int | float) and not 0 <= value < 2**63:
        return False
    return isinstance(value, kind) and not isinstance(value, bool)
