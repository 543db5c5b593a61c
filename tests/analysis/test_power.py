"""The detectable difference is found as often as it says, by the test that makes the claims."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.analysis.contrasts import contrast
from pipeline.analysis.power import POWER, detectable_difference

SPREAD = 0.7


def runs_with_spread(n: int) -> np.ndarray:
    """Run means whose standard deviation is SPREAD."""
    values = np.arange(n, dtype=float)
    return (values - values.mean()) / values.std(ddof=1) * SPREAD


@pytest.mark.parametrize(("runs", "claims"), [(5, 5), (3, 4), (9, 2), (3, 1)])
def test_it_is_found_four_times_in_five_at_holms_first_step(runs, claims):
    rng = np.random.default_rng(100 * runs + claims)
    shift = detectable_difference(runs_with_spread(runs), runs_with_spread(runs), claims=claims)
    found = [
        contrast(rng.normal(shift, SPREAD, (runs, 1)), rng.normal(0.0, SPREAD, (runs, 1)), seed=seed)
        for seed in range(600)
    ]
    power = np.mean([each.difference.p_value <= 0.05 / claims for each in found])
    assert power == pytest.approx(POWER, abs=3 * math.sqrt(POWER * (1 - POWER) / len(found)))


def test_it_falls_with_runs_and_rises_with_claims_and_spread():
    small, large = runs_with_spread(3), runs_with_spread(9)
    assert detectable_difference(large, large) < detectable_difference(small, small)
    assert detectable_difference(small, small) < detectable_difference(small, small, claims=4)
    assert detectable_difference(small, 2 * small) == pytest.approx(
        detectable_difference(2 * small, small), rel=0.05
    )
    assert detectable_difference(2 * small, 2 * small) == pytest.approx(
        2 * detectable_difference(small, small)
    )


@pytest.mark.parametrize("arm", [[1.0], [1.0, 1.0, 1.0]])
def test_an_arm_without_spread_has_none(arm):
    assert detectable_difference(np.array(arm), runs_with_spread(3)) is None
