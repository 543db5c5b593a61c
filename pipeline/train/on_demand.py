"""Open a suite by name; recipes are trained at first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.spec import Checkpoint
from pipeline.suites import RecipeSuite, Suite, open_suite, registered_suite
from pipeline.suites.revisions import RevisionChoice, sort_revisions
from pipeline.suites.suite import chosen_stages
from pipeline.suites.training_settings import TrainingSettings
from pipeline.train.recipes import find_recipe

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
        from pipeline.train import pretrain

        pretrain(find_recipe(name), folder, on_progress=on_progress)
    return open_suite(str(folder), revisions)


def planned_suite(name: str | Path, revisions: str | None = None) -> Suite | None:
    """The suite that :func:`open_or_train` would train first, as far as its recipe tells; None if it trains nothing.

    Its checkpoints have no files yet, and it has no tokenizer. Raises UsageError where ``revisions`` matches none.
    """
    folder = recipe_folder(str(name))
    if folder is None or is_trained(folder):
        return None
    recipe, choice = find_recipe(str(name)), RevisionChoice(revisions)
    known = sort_revisions([f"step{step}" for step in recipe.checkpoint_steps], choice.pattern())[0]
    return Suite(
        name=recipe.name,
        location=str(folder),
        checkpoints=tuple(
            Checkpoint(
                step=each.step,
                revision=each.name,
                location=str(folder / each.name),
                learning_rate=recipe.learning_rate(max(each.step - 1, 0)),
            )
            for each in chosen_stages(recipe.name, known, choice)
        ),
        default_shape=recipe.evaluation_shape,
        training=TrainingSettings.from_recipe(recipe.plain()),
        recipe=recipe.plain(),
        train_corpus=recipe.corpus,
    )


def recipe_folder(name: str) -> Path | None:
    """Folder of the recipe ``name``, trained or not; None if it is not a recipe."""
    registered = registered_suite(name)
    return SUITES_FOLDER.absolute() / name if isinstance(registered, RecipeSuite) else None


def is_trained(folder: Path) -> bool:
    """Whether ``folder`` holds a complete suite."""
    return (folder / "suite.json").is_file()
