"""Training: recipes, schedules, the loop, and pretraining a suite. Recipes are listed without importing torch."""

from typing import TYPE_CHECKING, Any

from pipeline.train.recipes import RECIPES, Recipe, find_recipe
from pipeline.train.schedules import Schedule, make_schedule

if TYPE_CHECKING:
    from pipeline.train.pretraining import pretrain

__all__ = [
    "RECIPES", "Recipe", "Schedule", "find_recipe", "make_schedule", "pretrain",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import ``pretrain`` at first use, because it imports torch (seconds)."""
    if name == "pretrain":
        from pipeline.train.pretraining import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
