"""Open a suite by name, with a progress bar if it has to be trained first."""

from __future__ import annotations

from jobs.console import console, progress
from pipeline.suites import Suite
from pipeline.train.on_demand import is_trained, open_or_train, recipe_folder


def resolve_suite(name: str, revisions: str | None = None) -> Suite:
    """Call ``open_or_train`` and show the user its progress."""
    folder = recipe_folder(name)
    if folder is None or is_trained(folder):
        return open_or_train(name, revisions)
    console.print(f"training the suite {name} into {folder} (once)")
    with progress(f"pretrain {name}") as show:
        return open_or_train(name, revisions, show)
