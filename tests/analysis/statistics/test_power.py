"""The smallest difference is found as often as it says, by the test that makes the claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.statistics.contrasts import paired_estimate
from pipeline.analysis.statistics.intervals import POWER, power_of, smallest_found


@pytest.mark.parametrize(("seeds", "claims"), [(5, 5), (3, 4), (9, 2), (3, 1)])
def test_it_is_found_four_times_in_five_at_holms_first_step(seeds, claims):
    rng, sd, n = np.random.default_rng(100 * seeds + claims), 0.7, 3000
    shift = smallest_found(sd / math.sqrt(seeds), seeds - 1, alpha=0.05 / claims)
    found = [paired_estimate(rng.normal(shift, sd, seeds)).p_value <= 0.05 / claims for _ in range(n)]
    assert np.mean(found) == pytest.approx(POWER, abs=3 * math.sqrt(POWER * (1 - POWER) / n))


def test_it_grows_with_the_error_and_the_claims_and_falls_with_the_runs():
    assert smallest_found(2.0, 4) == pytest.approx(2 * smallest_found(1.0, 4))
    assert smallest_found(1.0, 4) < smallest_found(1.0, 4, alpha=0.01)
    assert smallest_found(1.0, 8) < smallest_found(1.0, 2)
    assert smallest_found(1.0, 1e9) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(POWER), rel=1e-3)


def test_the_power_at_the_smallest_difference_is_that_power():
    assert power_of(smallest_found(0.3, 5), 0.3, 5) == pytest.approx(POWER)
    assert math.isnan(power_of(1.0, 0.0, 5))
