"""The acceptance bounds of the phase rules, on fresh samples of curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analysis.cells import GROUPS
from tests.analysis.rates import measure
from tests.analysis.simulate import Truth, simulate

SEED = 90_000
"""Far from the seeds of the committed table."""
FEW = 59


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("steady", ("flat", "linear", "saturating", "exponential", "linear, memory 0.5", "linear, 20 even")),
        (
            "response",
            ("inverse, cosine", "inverse, pythia", "one_minus, cosine", "log_rate, cosine", "inverse, wsd"),
        ),
    ],
)
def test_curves_without_an_onset_are_rarely_given_one(group: str, names: tuple[str, ...]) -> None:
    claims = {name: 3 * measure(GROUPS[group][name], 3, seed=SEED, n_null=FEW).claimed for name in names}
    assert sum(claims.values()) <= 1, claims


def test_onsets_are_found_within_two_checkpoints_and_covered() -> None:
    names = ("x10", "explosion", "explosion, pythia", "explosion, 86 duplicates", "explosion, 20 log")
    rates = [measure(GROUPS["onset"][name], 3, seed=SEED, n_null=FEW) for name in names]
    assert np.mean([r.claimed for r in rates]) >= 0.9
    assert max(r.error_median or 0.0 for r in rates) <= 2
    assert np.mean([r.covered for r in rates if r.covered is not None]) >= 0.9


def test_the_right_event_is_named() -> None:
    names = ("paper", "half of the peak", "minimum rate", "WSD decay")
    right = [measure(GROUPS["event"][name], 3, seed=SEED, n_null=FEW).right or 0.0 for name in names]
    assert np.mean(right) >= 0.75, dict(zip(names, right, strict=True))


def test_simulated_noise_is_that_of_the_measured_suites() -> None:
    """The measured runs have 0.0033 to 0.0047; second differences of white noise have variance 6."""
    gaps = [simulate(Truth("linear"), seed).curve.gap("int4")[-100:] for seed in range(20)]
    assert 0.0033 < np.median([np.diff(g, 2).std() / np.sqrt(6) for g in gaps]) < 0.0047
