"""The choice of a checkpoint, on simulated curves whose best checkpoint is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.decision import Decision, Undecided, decide, uncorrelated_block
from tests.analysis.decisions import SHAPES, mean_curve, measured, rates


@pytest.mark.parametrize("shape", SHAPES)
def test_the_set_covers_the_best_checkpoint_and_regrets_stay_within_their_bounds(shape: str) -> None:
    found = rates(shape, 0.3, curves=12)
    assert found["set covers the best"] >= 10 / 12  # 0.95 to 1.00 in `python -m tests.analysis.decisions`
    assert found["regrets within bounds"] >= 11 / 12
    assert found["size of the set"] < 75


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_sequences_cover_it_too_however_long_their_documents_are(correlation: float) -> None:
    found = rates("flat late", correlation, curves=12, unit="sequence")
    assert found["set covers the best"] >= 10 / 12
    assert found["regrets within bounds"] >= 11 / 12


def test_blocks_are_as_long_as_documents_are() -> None:
    rng, truth = np.random.default_rng(0), np.zeros(101)
    alone, near, far = (measured(truth, rng, unit="sequence", correlation=rho) for rho in (0.0, 0.3, 0.8))
    assert uncorrelated_block(alone, (2, 4, 8)) == 2
    assert uncorrelated_block(near, (2, 4, 8)) > 2
    assert uncorrelated_block(far, (2, 4, 8)) == 8
    assert uncorrelated_block(far[:, :24], (2, 4, 8)) == 4  # four blocks of eight need 32 sequences
    assert uncorrelated_block(np.ones((3, 64)), (2, 4)) == 2


def example(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    losses = measured(mean_curve("minimum at 0.8", rng), rng)
    return np.arange(0, 1010, 10), losses, losses - 0.1


def decided(*args: np.ndarray, **options: object) -> Decision:
    found = decide(*args, variant="int4", **options)  # type: ignore[arg-type]
    assert isinstance(found, Decision)
    return found


def test_the_best_step_has_the_lowest_mean_and_regrets_are_differences_of_means() -> None:
    step, losses, fp32 = example()
    fp32 = fp32 + np.linspace(0, 0.2, len(step))[:, None] * np.array([1.0, -1.0] * 16)
    found = decided(step, losses, fp32)
    mean = losses.mean(axis=1)
    assert found.best_step == step[np.argmin(mean)]
    assert found.best_step in found.maybe_best
    assert found.regret_of_last.estimate == pytest.approx(mean[-1] - mean.min())
    assert found.regret_of_fp32_best.step == step[np.argmin(fp32.mean(axis=1))]
    for each in (found.regret_of_last, found.regret_of_fp32_best, found.regret_of_lowest_gap):
        assert 0 <= each.lower <= each.estimate <= each.upper


def test_an_obvious_best_checkpoint_stands_alone_and_the_rest_of_the_training_is_saved() -> None:
    step, losses, fp32 = example()
    losses[40] -= 1.0
    found = decided(step, losses, fp32, tokens_seen=step * 1000.0)
    assert found.maybe_best == found.good_enough == (400,)
    assert found.earliest_good_enough == 400
    assert found.tokens_saved == pytest.approx(0.6)
    assert found.regret_of_last.lower > 0.8


def test_a_duplicate_of_the_best_checkpoint_changes_nothing() -> None:
    step, losses, fp32 = example()
    best = int(np.argmin(losses.mean(axis=1)))
    order = np.insert(np.arange(len(step)), -1, best)
    distinct = np.arange(len(order)) != len(step) - 1
    steps = np.insert(step, -1, 995)
    once, twice = decided(step, losses, fp32), decided(steps, losses[order], fp32[order], distinct=distinct)
    assert twice == once
    unflagged = decided(steps, losses[order], fp32[order])
    assert set(unflagged.maybe_best) == {*once.maybe_best, 995}


def test_the_lowest_gap_is_not_that_of_the_untrained_model() -> None:
    step, losses, fp32 = example()
    fp32[0] = losses[0]
    assert decided(step, losses, fp32).regret_of_lowest_gap.step >= 300


def test_a_diverged_checkpoint_is_no_candidate() -> None:
    step, losses, fp32 = example()
    losses[-1] = np.nan
    found = decided(step, losses, fp32)
    assert found.regret_of_last.step == step[-2]
    assert found.n_checkpoints == len(step) - 1


def test_too_little_to_decide_on_is_said() -> None:
    step, losses, fp32 = example()
    assert isinstance(decide(step, losses[:, :7], fp32[:, :7], variant="int4"), Undecided)
    assert isinstance(decide(step, np.full_like(losses, np.nan), fp32, variant="int4"), Undecided)


def test_text_that_moves_all_checkpoints_alike_leaves_no_doubt() -> None:
    step = np.arange(10)
    losses = np.linspace(2.0, 1.0, 10)[:, None] + np.random.default_rng(0).normal(0, 1, 32)
    assert decided(step, losses, losses).maybe_best == (9,)


def test_a_last_checkpoint_that_repeats_an_earlier_one_costs_what_that_one_does() -> None:
    """Revisions that serve other weights than their own, as some of a published suite do."""
    step, losses, fp32 = example()
    source = np.where(np.arange(101) < 90, np.arange(101), 60)
    found = decided(step, losses[source], fp32[source], distinct=np.arange(101) < 90)
    mean = losses[source].mean(axis=1)
    assert found.regret_of_last.step == 1000
    assert found.regret_of_last.estimate == pytest.approx(mean[-1] - mean.min())
    alone = decided(step[:90], losses[:90], fp32[:90])
    assert found.maybe_best == alone.maybe_best
    assert alone.regret_of_last.estimate != pytest.approx(mean[-1] - mean.min(), rel=0.1)
