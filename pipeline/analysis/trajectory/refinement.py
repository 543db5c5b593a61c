"""Which of the undecided checkpoints is best, on more text: measure them again on new tokens, and repeat.

The tokens of a round are new: none is in an earlier round. The candidates of a round were chosen with the old tokens,
whose luck favoured some of them (the winner's curse); the decision of the round rests on its new tokens alone, which
know nothing of that choice. So its set covers the best of its candidates with ``level``, and the last set covers the
best checkpoint of the run with at least 1 - (rounds + 1) (1 - level), because every set before it must have kept it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.analysis.decision import Decision, Undecided
from pipeline.base.typed_json import UNLESS_NONE

FACTOR = 16
"""New tokens of a round, in those of the round before."""


@dataclass(frozen=True)
class RefinementRound:
    """One measurement of the undecided checkpoints on new tokens."""

    steps: tuple[int, ...]
    """Checkpoints that were measured."""
    batches: int
    """New batches."""
    n_tokens: int
    """Tokens evaluated, over all checkpoints."""
    wall_s: float
    best_step: int
    maybe_best: tuple[int, ...]
    """Steps that the new tokens do not distinguish from the best one."""


@dataclass(frozen=True)
class Refinement:
    """All rounds, and why there was no further one: ``decision.refined`` of report.json."""

    best_step: int | None = field(metadata=UNLESS_NONE, default=None, kw_only=True)
    """The checkpoint that the last round found best; None without a round."""
    maybe_best: tuple[int, ...] | None = field(metadata=UNLESS_NONE, default=None, kw_only=True)
    """Steps that the last round does not distinguish from it."""
    rounds: tuple[RefinementRound, ...]
    ended: str
    sentence: str
    """The result and its cost."""


@dataclass(frozen=True)
class NewMeasurement:
    """What measuring some checkpoints on new tokens gave."""

    decision: Decision | Undecided
    n_tokens: int
    """Tokens evaluated, over all checkpoints."""
    wall_s: float


def refine(
    maybe_best: Sequence[int],
    batches: int,
    measure: Callable[[Sequence[int], int, int], NewMeasurement | str],
) -> Refinement:
    """Measure the checkpoints at the steps ``maybe_best`` again until one is left or the set no longer shrinks.

    ``batches``: batches that they were chosen with. ``measure(steps, used, new)`` measures on ``new`` batches after the
    ``used`` first ones of the corpus, or says why it cannot.
    """
    rounds: list[RefinementRound] = []
    used, new, steps = batches, FACTOR * batches, tuple(maybe_best)
    while len(steps) > 1:
        found = measure(steps, used, new)
        if isinstance(found, str):
            return _ended(rounds, found)
        if isinstance(found.decision, Undecided):
            return _ended(rounds, found.decision.reason)
        kept = found.decision.maybe_best
        rounds.append(
            RefinementRound(steps, new, found.n_tokens, found.wall_s, found.decision.best_step, kept)
        )
        if len(kept) == len(steps):
            return _ended(rounds, "the set no longer shrank")
        used, new, steps = used + new, FACTOR * new, kept
    return _ended(rounds, "one checkpoint was left")


def _ended(rounds: Sequence[RefinementRound], why: str) -> Refinement:
    if not rounds:
        return Refinement((), why, f"No checkpoint was measured again: {why}.")
    last = rounds[-1]
    tokens, seconds = sum(each.n_tokens for each in rounds), sum(each.wall_s for each in rounds)
    others = len(last.maybe_best) - 1
    rest = f"{others:,} more cannot be told from it" if others else "it is better than every other candidate"
    sentence = (
        f"On {last.batches:,} new batches step {last.best_step:,} is best and {rest}; measuring again took "
        f"{tokens:,} tokens and {seconds:,.0f} seconds, and ended because {why}."
    )
    return Refinement(tuple(rounds), why, sentence, best_step=last.best_step, maybe_best=last.maybe_best)
