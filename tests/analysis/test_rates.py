"""The acceptance bounds of onset detection, measured on curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analysis.simulate import NULL_KINDS, ONSET_KINDS, measure, simulate


def test_no_kind_of_curve_without_an_onset_is_often_given_one() -> None:
    claims = [measure(f"null/{kind}", 4, seed=11).claimed for kind in NULL_KINDS]
    assert np.mean(claims) <= 0.05


def test_an_onset_whose_growth_rate_triples_is_found_and_covered() -> None:
    rates = [
        measure(f"onset/{kind}", 4, seed=11)
        for kind in ("ratio_5", "ratio_10", "from_flat", "nats", "paper_nats")
    ]
    assert np.median([r.median_error for r in rates]) <= 2
    assert np.mean([r.covered for r in rates]) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", NULL_KINDS)
def test_false_alarms(kind: str) -> None:
    n = 40
    assert measure(f"null/{kind}", n, seed=5).claimed * n <= 5  # P(more than 5 of 40 | 5 %) = 1.4 %


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONSET_KINDS)
def test_error_and_coverage(kind: str) -> None:
    rates = measure(f"onset/{kind}", 30, seed=5)
    assert rates.median_error <= 2
    assert rates.covered >= 0.8


def test_simulated_noise_is_that_of_the_measured_trajectory() -> None:
    case = simulate("null/linear", 0)
    second = np.diff(case.curve.gap("int4")[-100:], 2)
    assert 0.002 < second.std() / np.sqrt(6) < 0.005
