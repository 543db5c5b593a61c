"""What a swap says of losses whose cause is known: parabolas around two sets of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.analysis.statistics.intervals import student_half_width
from pipeline.analysis.trajectory.mechanism.swapping import swap
from pipeline.quantize.swapped_error import resized

WIDTH = 64


Pair = tuple[torch.Tensor, torch.Tensor]


def damages(hessians: Pair, errors: Pair, seed: int = 0) -> np.ndarray:
    """e'He / 2 of each error, resized, under each diagonal Hessian, (4, B): A A, A Z, Z A, Z Z; text is noisy."""
    found = [
        (resized(error, own, WIDTH).square() * hessian).sum().item() / 2
        for hessian, own in zip(hessians, errors, strict=True)
        for error in errors
    ]
    text = np.random.default_rng(seed).normal(1.0, 0.05, 32)
    return np.array(found)[:, None] * text


def signs(seed: int) -> torch.Tensor:
    return torch.randint(0, 2, (16, 256), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def test_a_sharper_loss_makes_the_weights_the_cause() -> None:
    flat = torch.rand(16, 256, generator=torch.Generator().manual_seed(0))
    found = swap("int4", (10, 90), damages((flat, 3 * flat), (0.1 * signs(1), 0.1 * signs(2))))
    assert found.growth is not None
    assert found.growth.estimate == pytest.approx(3.0)
    assert found.weights_share is not None
    assert found.weights_share.estimate == pytest.approx(1.0)
    assert "with the weights" in found.sentence
    assert (found.early, found.late) == (10, 90)
    assert found.late_error_on_early.nats == pytest.approx(found.early_damage.nats)


def test_larger_errors_count_as_the_weights() -> None:
    flat = torch.ones(16, 256)
    found = swap("int4-g32-asym", (10, 90), damages((flat, flat), (0.1 * signs(1), 0.2 * signs(2))))
    assert found.variant == "int4_g32_asym"
    assert found.sentence.startswith("int4-g32-asym damage grew"), "the name that --variant takes"
    assert found.growth is not None
    assert found.growth.estimate == pytest.approx(4.0)
    assert found.weights_share is not None
    assert found.weights_share.estimate == pytest.approx(1.0)


def test_errors_along_the_sharp_directions_make_the_pattern_the_cause() -> None:
    """Early errors lie where the loss is flat, late ones where it is sharp; the loss and the sizes are the same."""
    sharp = torch.zeros(16, 256)
    sharp[:, ::2] = 10.0
    even = torch.zeros(16, 256)
    even[:, ::2] = 1.0
    errors = 0.1 * (signs(1) * (1 - even) + 0.3 * signs(3) * even), 0.1 * signs(2)
    found = swap("int4", (10, 90), damages((sharp, sharp), errors))
    assert found.weights_share is not None
    assert found.weights_share.upper < 0.5
    assert "with the pattern of the errors" in found.sentence


@pytest.mark.parametrize("n_batches", [16, 32])
def test_intervals_count_that_neighbouring_batches_are_alike_and_blocks_few(n_batches: int) -> None:
    """Only the late damage varies, alike in pairs of batches: Student's t on the pairs is the interval."""
    pairs = np.random.default_rng(2).normal(1.0, 0.05, n_batches // 2)
    one = np.ones(n_batches)
    found = swap("int4", (10, 90), np.stack([one, one, 3 * one, 3 * pairs.repeat(2) / pairs.mean()]))
    assert found.growth is not None
    se = pairs.std(ddof=1) / pairs.mean() / np.sqrt(len(pairs))
    half_width = (found.growth.upper - found.growth.lower) / 2 / found.growth.estimate
    # blocks begin at every batch, also between the two of a pair: root of 3/4
    assert half_width == pytest.approx(np.sqrt(0.75) * student_half_width(se, len(pairs) - 1), rel=0.15)


def test_no_growth_and_no_damage_are_said() -> None:
    flat = torch.ones(16, 256)
    same = swap("int4", (10, 90), damages((flat, flat), (0.1 * signs(1), 0.1 * signs(2))))
    assert same.weights_share is None
    assert "did not clearly grow" in same.sentence
    negative = damages((flat, flat), (0.1 * signs(1), 0.1 * signs(2)))
    negative[1] *= -1
    none = swap("int8", (10, 90), negative)
    assert none.growth is None
    assert "a damage is not clearly above 0" in none.sentence
    broken = damages((flat, flat), (0.1 * signs(1), 0.1 * signs(2)))
    broken[2] = np.nan
    assert swap("int8", (10, 90), broken).growth is None


def test_resized_groups_have_the_wanted_norms() -> None:
    """A last group that is shorter is a group; one without error stays so."""
    error, like = signs(1)[:, :200], 0.5 * signs(2)[:, :200]
    error[0, :64] = 0.0
    found = resized(error, like, WIDTH)
    for start in range(0, 200, WIDTH):
        norms = found[:, start : start + WIDTH].norm(dim=1)
        wanted = like[:, start : start + WIDTH].norm(dim=1)
        if start == 0:
            assert norms[0] == 0
            norms, wanted = norms[1:], wanted[1:]
        assert norms.tolist() == pytest.approx(wanted.tolist())
