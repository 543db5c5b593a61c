"""Runs that share a beginning: a suite under another schedule continues from the state of the first.

Two runs with the same seed and data whose schedules agree up to a step are the same run up to there. The first
saves its whole state at that step (``pretrain --keep-state-at``), the second links the checkpoints before it and
continues from the state (``pretrain --branch-from``). On a CPU the suite equals one from scratch, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.files import make_folder, write_atomically
from pipeline.base.json_files import checked
from pipeline.base.paths import new_folder
from pipeline.train.recipes import Recipe
from pipeline.train.schedules import Schedule

KEPT = ".kept"
"""Folder of a suite with its saved states."""

SAME_RATE = 1e-12
"""Relative difference of learning rates that counts as rounding: two formulas of a rate differ in the last bit."""


@dataclass(frozen=True)
class _Free:
    """Settings in which the two recipes may differ, if their learning rates agree up to the branch."""

    name: str
    schedule: str
    min_lr: float


FREE = {field.name for field in dataclasses.fields(_Free)}


def keepable(recipe: Recipe, steps: Collection[int]) -> set[int]:
    """``steps`` as a set; raises UsageError for a step outside a run of ``recipe``."""
    for step in steps:
        if not 1 <= step <= recipe.steps:
            raise UsageError(
                f"no state to keep at step {step}: a run of {recipe.name} has steps 1 to {recipe.steps}"
            )
    return set(steps)


def refuse_lost(out: Path, steps: Collection[int], file: Callable[[int], Path], what: str) -> None:
    """Raise UsageError if the suite in ``out`` passed one of ``steps`` without the ``file`` with its ``what``."""
    lost = [step for step in sorted(steps) if not file(step).is_file()]
    if lost:
        raise UsageError(
            f"{out} passed step {lost[0]} without saving its {what}, which cannot be had afterwards: train into a new "
            "folder"
        )


def kept_state(folder: Path, step: int) -> Path:
    """Path of the state after ``step`` updates."""
    return folder / KEPT / f"step{step}.pt"


def agree(one: Schedule, other: Schedule, step: int) -> bool:
    """Whether two schedules have the same learning rate for the first ``step`` updates."""
    return all(math.isclose(one(each), other(each), rel_tol=SAME_RATE) for each in range(step))


def branch(recipe: Recipe, out: Path, state: Path, source: Path, made_by: dict[str, Any]) -> int:
    """Link the checkpoints of ``source`` up to its latest saved state that ``recipe`` shares into ``out``, copy
    that state to ``state``, and return its step.

    ``made_by``: the recipe of ``source`` as plain values. Raises UsageError if the two share no state.
    """
    if not made_by:
        raise UsageError(f"{source} is not a suite that pretrain made: name one to branch from")
    differing = sorted(name for name, value in recipe.plain().items() if made_by.get(name) != value)
    if not set(differing) <= FREE:
        raise UsageError(
            f"{source} was trained with another {', '.join(sorted(set(differing) - FREE))}: a branch may differ in "
            "its schedule only"
        )
    before = _schedule_of(recipe, source, made_by)
    kept = sorted(int(path.stem.removeprefix("step")) for path in (source / KEPT).glob("step*.pt"))
    shared = [step for step in kept if agree(before, recipe.learning_rate, step)]
    if not shared:
        told = (
            f"those at {', '.join(map(str, kept))} come after the schedules differ"
            if kept
            else "it saved none"
        )
        raise UsageError(
            f"{source} has no state to branch from: {told}; train it with --keep-state-at STEP, a step up to which "
            "both schedules have the same learning rate"
        )
    for step in (each for each in recipe.checkpoint_steps if each <= shared[-1]):
        _link(source / f"step{step}", out / f"step{step}")
    make_folder(state.parent)
    write_atomically(state, kept_state(source, shared[-1]).read_bytes())
    return shared[-1]


def _schedule_of(recipe: Recipe, source: Path, made_by: dict[str, Any]) -> Schedule:
    """The schedule of ``source``, which equals ``recipe`` in everything but ``FREE``."""
    said = checked(_Free, made_by, lambda what: UsageError(f"{source} says of its recipe: {what}"), "recipe")
    return dataclasses.replace(recipe, **vars(said)).learning_rate


def _link(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise UsageError(f"{source} is gone: a branch needs every checkpoint before it")
    if not target.is_dir():
        with new_folder(target) as fresh:
            shutil.copytree(source, fresh, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
