"""Requests: what to do, checked and complete, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.runs.plans import PlannedRun

if TYPE_CHECKING:
    import numpy as np

    from pipeline.corpus import EvaluationTokens
    from pipeline.driver import Resources
    from pipeline.runs.folder import RunFolder
    from pipeline.spec import Checkpoint, ProbeSpec
    from pipeline.suites import Suite
    from pipeline.train.arms import Arm
    from pipeline.train.fork_spec import ForkSpec


@dataclass(frozen=True)
class AuditRequest:
    """What to measure, and where the shards go."""

    suite: Suite
    probe: ProbeSpec
    tokens: EvaluationTokens
    corpus: str
    """The evaluation corpus as the user named it."""
    out: RunFolder
    resources: Resources
    replace_stale: bool = False
    cache_gb: float | None = None
    """Disk for downloaded weights on each node, in 10^9 bytes; None = half of what is free."""
    stream: bool = False
    """Measure layer by layer even where the whole model fits."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it is measured."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the suite or cannot be known of it."""


@dataclass(frozen=True, eq=False)
class ForkRequest:
    """What to train and measure, and where the shards go."""

    suite: str
    checkpoint: Checkpoint
    start_rule: str
    """Why this checkpoint, as a sentence."""
    spec: ForkSpec
    arms: tuple[Arm, ...]
    """Resolved."""
    seeds: int
    """Runs per arm: seeds 0 to ``seeds - 1``, the same data order for every arm."""
    tokens: EvaluationTokens
    train: np.ndarray
    """1-D training tokens."""
    corpus: str
    train_corpus: str
    out: RunFolder
    """Of kind ``FORK``."""
    resources: Resources
    state_every: int
    state_after_s: float = 0.0
    """Least seconds between two states of a run."""
    train_made_of: dict[str, Any] | None = None
    """Of which text and tokenizer ``train`` is (``pipeline.train.kept_tokens``); None = they are never used again."""
    train_kept: bool = False
    """Whether ``train`` was read from ``out``, where an earlier call had kept it."""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is known to be wrong with some of the suite's checkpoints."""
    replace_stale: bool = False

    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run, the first seeds of all arms before the second: a look half-way sees all arms."""
        return tuple(PlannedRun(arm, seed) for seed in range(self.seeds) for arm in self.arms)
