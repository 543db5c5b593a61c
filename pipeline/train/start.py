"""Choose the start of a fork: a given step, or the last checkpoint before the damage."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.errors import UsageError
from pipeline.spec import Checkpoint
from pipeline.suites import Suite


@dataclass(frozen=True)
class Start:
    """The checkpoint that every run of a fork experiment starts from."""

    checkpoint: Checkpoint
    rule: str
    """Reason for this checkpoint, as a sentence."""


@dataclass(frozen=True)
class AuditedPhases:
    """The part of an audit's report.json that says where to start."""

    suite: str
    onset_step: int | None = None
    convergence_step: int | None = None


def named_start(suite: Suite, step: int) -> Start:
    """The checkpoint of ``step``; raises UsageError, which names the nearest, if the suite lacks it."""
    return Start(suite.select([step]).checkpoints[0], f"step {step:,} was asked for")


def automatic_start(suite: Suite, audit: AuditedPhases) -> Start:
    """The start that an audit of ``suite`` suggests.

    The rule was fixed before any fork was run: with an onset, the last checkpoint before it; without one, the last
    checkpoint at or before full-precision convergence, where the paper sees the onset; without either, the last
    checkpoint of the first half of the run. Raises UsageError if the audit is of another suite.
    """
    if audit.suite != suite.name:
        raise UsageError(
            f"the audit is of suite {audit.suite}, not of {suite.name}: give --audit DIR of its own"
        )
    onset, convergence = audit.onset_step, audit.convergence_step
    if onset is not None:
        found = _last(suite, onset - 1)
        rule = f"the last checkpoint before the onset that the audit found at step {onset:,}"
    elif convergence is not None:
        found = _last(suite, convergence)
        rule = f"the audit found no onset, so the fork starts where full precision converges (step {convergence:,})"
    else:
        half = suite.checkpoints[-1].step // 2
        found = _last(suite, half)
        rule = f"the audit found neither onset nor convergence, so the fork starts half-way (step {half:,} or before)"
    return Start(found, rule)


def _last(suite: Suite, step: int) -> Checkpoint:
    """The last checkpoint at or before ``step``, without its mark as a duplicate."""
    steps = [checkpoint.step for checkpoint in suite.checkpoints if checkpoint.step <= step]
    if not steps:
        raise UsageError(
            f"suite {suite.name} has no checkpoint at or before step {step}: name one with --from"
        )
    return suite.select([max(steps)]).checkpoints[0]
