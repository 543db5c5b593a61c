"""Open a suite by name; recipes are trained at first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.suites import RecipeSuite, Suite, open_suite, registered_suite

SUITES_FOLDER = Path("outputs/suites")
"""Folder of suites that are trained at first use."""

OnProgress = Callable[[int, int, float | None, str], None]
"""Called with updates made, total updates, seconds left (None: not known yet) and a note on the last one."""


def open_or_train(
    name: str | Path, revisions: str | None = None, on_progress: OnProgress = lambda *_: None
) -> Suite:
    """Open the suite ``name``, reduced to ``revisions`` that match; a recipe is trained into ``outputs/suites/``
    first.

    name: a registered name, a hub repository ``org/name`` or a folder. Raises UsageError for anything else.
    """
    name = str(name)
    folder = recipe_folder(name)
    if folder is None:
        return open_suite(name, revisions)
    if not is_trained(folder):
        from pipeline.train import find_recipe, pretrain

        pretrain(find_recipe(name), folder, on_progress=on_progress)
    return open_suite(str(folder), revisions)


def recipe_folder(name: str) -> Path | None:
    """Folder of the recipe ``name``, trained or not; None if it is not a recipe."""
    registered = registered_suite(name)
    return SUITES_FOLDER.absolute() / name if isinstance(registered, RecipeSuite) else None


def is_trained(folder: Path) -> bool:
    """Whether ``folder`` holds a complete suite."""
    return (folder / "suite.json").is_file()
