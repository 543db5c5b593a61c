"""Training: recipes, schedules, the loop, and pretraining a suite.

``pipeline.train`` itself imports no torch (recipes are listed without it); ``pipeline.train.pretrain`` does.
"""

from pipeline.train.recipes import RECIPES, Recipe, get_recipe, known_recipes
from pipeline.train.schedules import SCHEDULES, Schedule, make_schedule

__all__ = ["RECIPES", "SCHEDULES", "Recipe", "Schedule", "get_recipe", "known_recipes", "make_schedule"]
