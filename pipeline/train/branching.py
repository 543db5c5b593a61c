"""Runs that share a beginning: a suite under another schedule continues from the state of the first.

Two runs with the same seed and data whose schedules agree up to some step are one run up to there. The first keeps
its whole state at that step (``pretrain --keep-state-at``), the second links the checkpoints before it and goes on
from the state (``pretrain --branch-from``): the same suite as from scratch, bit for bit on a CPU, for less.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.files import make_folder, write_atomically
from pipeline.base.json_fields import Fields
from pipeline.base.paths import new_folder
from pipeline.train.recipes import Recipe
from pipeline.train.schedules import Schedule

KEPT = ".kept"
"""Folder of a suite with the states that were kept."""

SAME_RATE = 1e-12
"""Relative difference of learning rates that is rounding: two formulas for one rate differ in the last bit."""

FREE = {"name", "schedule", "min_lr"}
"""Settings in which the two may differ, as long as their learning rates agree up to the branch."""


def keepable(recipe: Recipe, steps: Collection[int]) -> set[int]:
    """``steps`` as a set; ``UsageError`` for one that a run of ``recipe`` does not pass."""
    for step in steps:
        if not 1 <= step <= recipe.steps:
            raise UsageError(
                f"no state to keep at step {step}: a run of {recipe.name} has steps 1 to {recipe.steps}"
            )
    return set(steps)


def refuse_lost(folder: Path, steps: Collection[int]) -> None:
    """``UsageError`` where the suite in ``folder`` passed one of ``steps`` before its state was asked for."""
    lost = [step for step in sorted(steps) if not kept_state(folder, step).is_file()]
    if lost:
        raise UsageError(
            f"{folder} passed step {lost[0]} before its state was asked for, and it cannot be had afterwards: train "
            "into a new folder"
        )


def kept_state(folder: Path, step: int) -> Path:
    """Where the state after ``step`` updates is kept."""
    return folder / KEPT / f"step{step}.pt"


def agree(one: Schedule, other: Schedule, step: int) -> bool:
    """Whether two schedules have the same learning rate for the first ``step`` updates."""
    return all(math.isclose(one(each), other(each), rel_tol=SAME_RATE) for each in range(step))


def branch(recipe: Recipe, out: Path, state: Path, source: Path, made_by: dict[str, Any]) -> int:
    """Gives ``out`` the checkpoints of ``source`` up to the latest kept state that ``recipe`` shares with it, and that
    state as ``state``; returns its step.

    ``made_by``: the recipe of ``source`` as plain values. ``UsageError`` where there is nothing to share.
    """
    if not made_by:
        raise UsageError(f"{source} is no suite that pretrain made: name one to branch from")
    differing = sorted(name for name, value in recipe.plain().items() if made_by.get(name) != value)
    if not set(differing) <= FREE:
        raise UsageError(
            f"{source} was trained with another {', '.join(sorted(set(differing) - FREE))}: a branch may differ in "
            "its schedule only"
        )
    before = _schedule_of(recipe, source, made_by)
    kept = sorted(int(path.stem.removeprefix("step")) for path in (source / KEPT).glob("step*.pt"))
    shared = [
        step
        for step in kept
        if all(
            math.isclose(before(each), recipe.learning_rate(each), rel_tol=SAME_RATE) for each in range(step)
        )
    ]
    if not shared:
        told = (
            f"those at {', '.join(map(str, kept))} come after the schedules part" if kept else "it kept none"
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
    """The schedule of ``source``, which agrees with ``recipe`` in everything but ``FREE``."""
    said = Fields(made_by, lambda what: UsageError(f"{source} says of its recipe: {what}"), "recipe.")
    kinds = {"name": str, "schedule": str, "min_lr": float}
    return dataclasses.replace(recipe, **{name: said.need(name, kinds[name]) for name in FREE}).learning_rate


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
