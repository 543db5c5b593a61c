"""A trajectory: its checkpoints in order, and the known facts about the run. No weights are loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.spec import Checkpoint, TokenShape
from pipeline.suites.revisions import Revision, RevisionChoice
from pipeline.suites.training_settings import TrainingSettings

HUB = "hf://"
"""Prefix of the location of a hub repository; any other location is an absolute folder."""


@dataclass(frozen=True)
class Suite:
    """The checkpoints of one training run."""

    name: str
    location: str
    """An absolute folder, or ``hf://org/name``."""
    checkpoints: tuple[Checkpoint, ...]
    """Checkpoints in order of stage, then step, as numbers."""
    default_corpus: str | None = None
    """Evaluation corpus that comes with the suite (corpus grammar, paths absolute)."""
    default_shape: TokenShape | None = None
    tokenizer: str | None = None
    """Folder or ``hf://org/name@commit`` of its tokenizer; None = it has none and takes ``tokens:`` corpora only."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run from its suite.json; empty if it has none."""
    train_corpus: str | None = None
    """Training corpus, as stated in its suite.json."""
    skipped: tuple[str, ...] = ()
    """Sub-folders or branches whose names match no checkpoint pattern."""
    warnings: tuple[str, ...] = ()
    """One sentence per known or found defect of some checkpoints."""

    @cached_property
    def names(self) -> dict[str, str]:
        """Key -> revision."""
        return {checkpoint.key: checkpoint.revision for checkpoint in self.checkpoints}

    @property
    def distinct(self) -> tuple[Checkpoint, ...]:
        """The checkpoints without those that repeat an earlier one."""
        return tuple(each for each in self.checkpoints if each.duplicate_of is None)

    def select(self, steps: Sequence[int] | None = None, limit: int | None = None) -> Suite:
        """The suite reduced to the given steps, and to the first ``limit`` of those.

        Raises UsageError, which names the nearest steps, if a step is missing. A duplicate whose first copy is not
        selected is no duplicate.
        """
        chosen = self.checkpoints
        if steps is not None:
            self.require_steps(steps)
            chosen = tuple(checkpoint for checkpoint in chosen if checkpoint.step in set(steps))
        if limit is not None:
            if limit < 1:
                raise UsageError(f"limit {limit}: wanted at least 1 checkpoint")
            chosen = chosen[:limit]
        first: dict[str, str] = {}
        relinked = []
        for checkpoint in chosen:
            original = first.setdefault(checkpoint.duplicate_of or checkpoint.key, checkpoint.key)
            same = None if original == checkpoint.key else original
            relinked.append(dataclasses.replace(checkpoint, duplicate_of=same))
        return dataclasses.replace(self, checkpoints=tuple(relinked))

    def require_steps(self, steps: Iterable[int], option: str = "") -> None:
        """Raise UsageError, which names ``option`` and what is there, for a step that no checkpoint has."""
        for step in steps:
            if not any(checkpoint.step == step for checkpoint in self.checkpoints):
                raise UsageError(
                    f"{option and f'{option} {step}: '}suite {self.name} has no step {step}"
                    f"{option and ' among those to measure'}: the nearest are {self._nearest(step)}"
                )

    def _nearest(self, step: int) -> str:
        there = sorted(
            {checkpoint.step for checkpoint in self.checkpoints}, key=lambda each: abs(each - step)
        )
        return ", ".join(map(str, sorted(there[:3])))


def chosen_stages(suite: str, revisions: Sequence[Revision], choice: RevisionChoice) -> dict[Revision, str]:
    """The revisions that ``choice`` selects, each with the stage of its key: empty unless some step number repeats.

    Raises UsageError if two revisions would still have the same key, or if none is selected.
    """
    steps = [revision.step for revision in revisions]
    repeats = len(set(steps)) < len(steps)
    stages = [revision.stage if repeats else "" for revision in revisions]
    seen: dict[tuple[str, int], str] = {}
    for stage, revision in zip(stages, revisions, strict=True):
        other = seen.setdefault((stage, revision.step), revision.name)
        if other != revision.name:
            raise UsageError(
                f"suite {suite}: {other} and {revision.name} are both step {revision.step}; move one away, "
                "or choose between them with --revisions"
            )
    chosen = {
        revision: stage
        for revision, stage in zip(revisions, stages, strict=True)
        if choice.wants(revision.name)
    }
    if not chosen:
        raise choice.nothing(suite, [revision.name for revision in revisions])
    return chosen
