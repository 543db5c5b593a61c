"""Measuring the undecided checkpoints again, on simulated losses whose best checkpoint is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.analysis.decision import Decision, Undecided, decide
from pipeline.analysis.trajectory.refinement import NewMeasurement, Refinement, refine
from pipeline.base.typed_json import to_json

CHECKPOINTS, SPREAD = 30, 0.02


def refined(
    truth: np.ndarray, rng: np.random.Generator, corpus: int = 10**6
) -> tuple[Refinement, list[tuple[int, int]]]:
    """The refinement of a run with the losses ``truth`` (nats) and the batches that its rounds took of the corpus."""
    taken: list[tuple[int, int]] = []

    def measured(steps: Sequence[int], batches: int) -> Decision | Undecided:
        losses = (
            truth[list(steps), None]
            + rng.normal(0, 0.2, batches)
            + rng.normal(0, SPREAD, (len(steps), batches))
        )
        return decide(np.array(steps), losses, losses - 0.1, variant="int4")

    def measure(steps: Sequence[int], used: int, new: int) -> NewMeasurement | str:
        if used + new > corpus:
            return f"{used + new - corpus} batches are missing"
        taken.append((used, used + new))
        return NewMeasurement(measured(steps, new), len(steps) * new * 64, 2.0)

    first = measured(range(CHECKPOINTS), 32)
    assert isinstance(first, Decision)
    return refine(first.maybe_best, 32, measure), taken


def test_more_text_leaves_the_best_checkpoint_and_no_token_is_used_twice() -> None:
    hits, shrank = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = 2.0 + rng.normal(0, 0.004, CHECKPOINTS)
        found, taken = refined(truth, rng)
        assert taken[0] == (32, 32 + 16 * 32)
        assert all(a[1] == b[0] and b[1] - b[0] == 16 * (a[1] - a[0]) for a, b in itertools.pairwise(taken))
        sizes = [len(each.steps) for each in found.rounds]
        assert sizes == sorted(sizes, reverse=True)
        hits.append(int(np.argmin(truth)) in found.rounds[-1].maybe_best)
        shrank.append(len(found.rounds[-1].maybe_best) < sizes[0] / 2)
    assert np.mean(hits) >= 0.9
    assert np.mean(shrank) >= 0.9


def test_checkpoints_that_are_equal_end_it_where_the_set_no_longer_shrinks() -> None:
    found, taken = refined(np.full(CHECKPOINTS, 2.0), np.random.default_rng(0))
    assert len(taken) <= 3
    assert len(found.rounds[-1].maybe_best) > 10


def test_a_corpus_that_is_too_small_keeps_what_was_found_and_says_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    truth = 2.0 + rng.normal(0, 0.004, CHECKPOINTS)
    none, _ = refined(truth, rng, corpus=500)
    assert none.rounds == ()
    assert "44 batches are missing" in none.sentence
    assert "best_step" not in to_json(none)
    one, _ = refined(truth, rng, corpus=600)
    assert len(one.rounds) == 1
    assert to_json(one)["best_step"] == one.rounds[0].best_step
    assert f"{len(one.rounds[0].steps) * 512 * 64:,} tokens" in one.sentence


def test_one_candidate_needs_no_measurement() -> None:
    assert refine([500], 32, lambda *_: "never asked").rounds == ()
