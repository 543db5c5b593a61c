"""From the name a user gives to a suite that is there: recipes are trained at first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.suites import RecipeSuite, Suite, open_suite, registered_suite

SUITES_FOLDER = Path("outputs/suites")
"""Where suites trained at first use are kept."""

OnProgress = Callable[[int, int, float | None, str], None]
"""Called with updates made, updates in all, seconds left (None: not known yet) and a word on the last one."""


def open_or_train(
    name: str, revisions: str | None = None, on_progress: OnProgress = lambda *_: None
) -> Suite:
    """The suite ``name``, of it the ``revisions`` that match; a recipe is trained into ``outputs/suites/`` first.

    name: a registered name, a hub repository ``org/name`` or a folder. ``UsageError`` for anything else.
    """
    folder = recipe_folder(name)
    if folder is None:
        return open_suite(name, revisions)
    if not is_trained(folder):
        from pipeline.train import find_recipe, pretrain

        pretrain(find_recipe(name), folder, on_progress=on_progress)
    return open_suite(str(folder), revisions)


def recipe_folder(name: str) -> Path | None:
    """Where the suite ``name`` is or will be trained; None where it is no recipe."""
    registered = registered_suite(name)
    return SUITES_FOLDER.absolute() / name if isinstance(registered, RecipeSuite) else None


def is_trained(folder: Path) -> bool:
    """Whether a suite stands in ``folder``."""
    return (folder / "suite.json").is_file()
