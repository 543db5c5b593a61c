"""Suites known by name, as data. A hub repository needs no entry to be used; an entry adds what its files
lack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.suites.settings import TrainingSettings, clipped_cosine


@dataclass(frozen=True)
class HubSuite:
    """A repository with one branch per checkpoint."""

    name: str
    repository: str
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def tokens_seen(self, step: int) -> int | None:
        """Training tokens at ``step``, if the run's batch size is known."""
        per_step = self.training.tokens_per_step
        return None if per_step is None else step * per_step

    def learning_rate(self, step: int) -> float | None:
        """Learning rate of the update that led to ``step`` (the first update's is 0), if known."""
        run = self.training
        rates = (run.peak_lr, run.min_lr)
        if run.schedule != "pythia" or run.steps is None or run.warmup_steps is None or None in rates:
            return None
        peak_lr, min_lr = (rate or 0.0 for rate in rates)
        return clipped_cosine(
            max(step - 1, 0), steps=run.steps, peak_lr=peak_lr, min_lr=min_lr, warmup_steps=run.warmup_steps
        )


@dataclass(frozen=True)
class RecipeSuite:
    """A suite that ``pretrain`` makes at first use; afterwards it is a folder like any other."""

    name: str
    recipe: str
    """Name in ``pipeline.train.recipes``."""


def _pythia(size: str, peak_lr: float, min_lr: float) -> HubSuite:
    """Source: Biderman et al. 2023 (arXiv 2304.01373), appendix E; the configs in EleutherAI/pythia."""
    run = TrainingSettings(
        steps=143_000,
        tokens_per_step=2_097_152,
        schedule="pythia",
        peak_lr=peak_lr,
        min_lr=min_lr,
        warmup_steps=1430,
    )
    return HubSuite(f"pythia-{size}", f"EleutherAI/pythia-{size}", run)


REGISTRY: dict[str, HubSuite | RecipeSuite] = {
    suite.name: suite for suite in (RecipeSuite("tiny", "tiny"), _pythia("160m", 6e-4, 6e-5))
}


def known_suites() -> list[str]:
    """Names that ``open_suite`` knows, in the order of the registry."""
    return list(REGISTRY)


def registered_suite(name: str) -> HubSuite | RecipeSuite | None:
    """The registry's entry for ``name``, or None if it must be a folder or a repository."""
    return REGISTRY.get(name)
