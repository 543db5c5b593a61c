"""Entries of the registry: a hub repository, its training run, and known defects of some revisions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.suites.training_settings import TrainingSettings, clipped_cosine, warm_cosine


@dataclass(frozen=True)
class Defect:
    """A published report that some revisions of a repository do not hold what their names state."""

    revisions: str
    """Regular expression that matches the full names of the revisions."""
    what: str
    """The fault as a clause: "serve the final checkpoint's weights"."""
    source: str
    """Source of the report, such as ``EleutherAI/pythia#205``."""


@dataclass(frozen=True)
class HubSuite:
    """A repository with one branch or tag per checkpoint."""

    name: str
    repository: str
    """``org/name``"""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    pattern: str | None = None
    """Regular expression of its checkpoints' names with the groups of ``pipeline.suites.revisions``; None = any
    of the patterns there."""
    defects: tuple[Defect, ...] = ()
    note: str = ""
    """One sentence that users of this suite must know."""

    described: str | None = None
    """Regular expression of the revisions that ``training`` applies to; None = all."""

    def tokens_seen(self, revision: str, step: int) -> int | None:
        """Training tokens at ``step``, if the run's batch size is known."""
        per_step = self.training.tokens_per_step
        return None if per_step is None or not self._describes(revision) else step * per_step

    def learning_rate(self, revision: str, step: int) -> float | None:
        """Learning rate of the update that led to ``step`` (the first update's is 0), if known."""
        run = self.training
        schedule = {"pythia": clipped_cosine, "cosine": warm_cosine}.get(run.schedule or "")
        steps = run.decay_steps or run.steps
        if schedule is None or steps is None or run.warmup_steps is None or not self._describes(revision):
            return None
        if run.peak_lr is None or run.min_lr is None:
            return None
        rates = {"peak_lr": run.peak_lr, "min_lr": run.min_lr}
        return schedule(max(step - 1, 0), steps=steps, warmup_steps=run.warmup_steps, **rates)

    def _describes(self, revision: str) -> bool:
        return self.described is None or re.fullmatch(self.described, revision) is not None

    def warnings(self, revisions: Sequence[str]) -> list[str]:
        """One sentence per known defect of any of ``revisions``."""
        found = []
        for defect in self.defects:
            hit = [name for name in revisions if re.fullmatch(defect.revisions, name)]
            if hit:
                shown = ", ".join(hit[:4]) + (f" and {len(hit) - 4} more" if len(hit) > 4 else "")
                found.append(f"known defect of {self.repository}: {shown} {defect.what} ({defect.source})")
        return found


@dataclass(frozen=True)
class RecipeSuite:
    """A suite that ``pretrain`` makes at first use; afterwards it is a folder like any other."""

    name: str
    recipe: str
    """Name in ``pipeline.train.recipes``."""
