"""From the name a user gives to a suite that is there: recipes are trained at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.console import console, progress
from pipeline.shards import SUITES_FOLDER
from pipeline.suites import RecipeSuite, open_suite, registered_suite

if TYPE_CHECKING:
    from pipeline.suites import Suite


def resolve_suite(name: str, revisions: str | None = None) -> Suite:
    """The suite ``name``, of it the ``revisions`` that match; a recipe is trained into ``outputs/suites/`` first."""
    registered = registered_suite(name)
    if not isinstance(registered, RecipeSuite):
        return open_suite(name, revisions)
    from pipeline.train import find_recipe, pretrain

    folder = SUITES_FOLDER.absolute() / name
    recipe = find_recipe(registered.recipe)
    if not (folder / "suite.json").is_file():
        console.print(f"training the suite {name} into {folder} (once)", markup=False)
        with progress(f"pretrain {name}") as show:
            pretrain(recipe, folder, on_progress=show)
    return open_suite(str(folder), revisions)
