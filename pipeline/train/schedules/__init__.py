"""Learning-rate schedules, one file each, and the registry that finds them. No torch.

A schedule is a frozen dataclass that derives from :class:`Schedule` (or :class:`WarmedSchedule`, which a recipe can
name too), declares its parameters, phases and compared phase, and is marked with ``@register``.
"""

from pipeline.train.schedules.schedule import (
    FINAL,
    PERIOD,
    ComparedPhase,
    ForkRates,
    Parameter,
    Schedule,
    fraction_problem,
    mean_rate,
    register,
    schedules,
)
from pipeline.train.schedules.warmed import WarmedSchedule, make_schedule, recipe_schedules

__all__ = [
    "FINAL", "PERIOD", "ComparedPhase", "ForkRates", "Parameter", "Schedule", "WarmedSchedule", "fraction_problem",
    "make_schedule", "mean_rate", "recipe_schedules", "register", "schedules",
]  # fmt: skip
