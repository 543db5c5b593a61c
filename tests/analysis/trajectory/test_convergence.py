"""FP32 convergence on losses whose plateau is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.trajectory import convergence
from pipeline.analysis.trajectory.convergence import ConvergenceFit, fit_convergence

X = np.arange(2, 144) / 143
SD = 0.0035 + 0.008 * np.exp(-X / 0.3)


def fit(loss: np.ndarray, seed: int = 0) -> ConvergenceFit:
    rng = np.random.default_rng(seed)
    return fit_convergence(X, loss + SD * rng.standard_normal(len(X)), rng)


def covers(result: ConvergenceFit, truth: float) -> bool:
    low, high = np.quantile(result.plateau_draws, [0.025, 0.975], method="inverted_cdf")
    return bool(low - 1 / 143 <= truth <= high + 1 / 143)


@pytest.mark.parametrize("late_rise", [0.0, 0.6])
def test_the_plateau_is_found_whether_or_not_the_loss_rises_later(late_rise: float) -> None:
    hits, errors = [], []
    for seed in range(20):
        at = 0.35 + 0.02 * seed
        within = at - 0.005 / 0.8  # 0.005 nats above the floor on a slope of 0.8 nats per run
        result = fit(1.7 + 0.8 * np.maximum(at - X, 0) + late_rise * np.maximum(X - at - 0.1, 0), seed)
        assert result.plateau is not None
        errors.append(abs(result.plateau - within) * 143)
        hits.append(covers(result, within))
    assert np.median(errors) <= 2
    assert np.mean(hits) >= 0.8


@pytest.mark.parametrize("slope", [0.1, 0.3])
def test_a_loss_that_keeps_falling_has_not_converged(slope: float) -> None:
    results = [fit(2.0 + 0.5 * np.exp(-X / 0.1) - slope * X, seed) for seed in range(10)]
    assert sum(r.plateau is not None for r in results) <= 1


def test_a_flat_loss_converged_at_the_first_checkpoint() -> None:
    result = fit(np.full_like(X, 1.7))
    assert result.plateau is not None
    assert result.plateau < 0.1


def test_a_plateau_left_for_a_lower_one_is_not_convergence() -> None:
    result = fit(1.7 + 0.3 * np.maximum(0.3 - X, 0) + 1.0 * np.clip(0.75 - X, 0, 0.1))
    assert result.plateau == pytest.approx(0.75, abs=0.03)


def test_the_best_point_lies_before_a_late_rise() -> None:
    result = fit(1.7 + 0.8 * np.maximum(0.5 - X, 0) + 0.8 * np.maximum(X - 0.5, 0))
    assert result.best == pytest.approx(0.5, abs=0.04)
    assert result.late_rise_nats == pytest.approx(0.4, abs=0.03)


def test_a_plateau_near_the_end_of_what_the_rule_sees_says_so() -> None:
    early, late, none = (fit(1.7 + 0.8 * np.maximum(at - X, 0)) for at in (0.5, 0.83, 1.0))
    assert (early.share, early.at_limit) == (1.0, False)
    assert late.at_limit
    assert 0.5 <= late.share < 1
    assert (none.plateau, none.share, none.at_limit) == (None, 0.0, False)


def test_half_of_the_curves_are_not_most(monkeypatch: pytest.MonkeyPatch) -> None:
    found = convergence.plateau_start

    def half(*arguments: np.ndarray, gets_worse: bool) -> np.ndarray:
        starts = found(*arguments, gets_worse=gets_worse)
        return np.where(np.arange(len(starts)) < len(starts) // 2, np.inf, starts)

    monkeypatch.setattr(convergence, "plateau_start", half)
    result = fit(1.7 + 0.8 * np.maximum(0.5 - X, 0))
    assert (result.plateau, result.share, result.at_limit) == (None, 0.5, False)
