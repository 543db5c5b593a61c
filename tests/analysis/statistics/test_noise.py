"""Noise estimates against noise that was put in."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.statistics.noise import (
    ar1_noise,
    memory,
    noise_shape,
    pseudo_residuals,
    smoother,
    tame_outliers,
    whiten,
)


def test_pseudo_residuals_remove_lines_and_keep_the_variance_of_noise() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(size=4000))
    noise = 0.3 * rng.standard_normal(4000)
    assert pseudo_residuals(x, 2 + 5 * x) == pytest.approx(0.0, abs=1e-9)
    assert pseudo_residuals(x, 2 + 5 * x + noise).std() == pytest.approx(0.3, rel=0.03)


def test_smoother_reproduces_lines_on_uneven_points() -> None:
    x = np.sort(np.random.default_rng(1).uniform(size=40))
    assert smoother(x, 9) @ (1 + 3 * x) == pytest.approx(1 + 3 * x)


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_memory_is_recovered_and_whitening_removes_it(phi: float) -> None:
    noise = ar1_noise(np.random.default_rng(2), 5000, 1, phi)[:, 0]
    assert memory(noise, 1) == pytest.approx(phi, abs=0.05)
    white = whiten(noise, phi)
    assert white[1:] @ white[:-1] / (white @ white) == pytest.approx(0.0, abs=0.04)
    assert white.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("power", [0, 1])
def test_noise_that_grows_with_the_gap_is_told_from_constant_noise(power: int) -> None:
    x = np.linspace(0, 1, 200)
    level = 0.02 + 0.3 * x
    sd = 0.05 * level**power
    y = level + sd * np.random.default_rng(3).standard_normal(200)
    assert noise_shape(x, y, level) / sd == pytest.approx(1.0, rel=0.35)


def test_a_spike_is_tamed_and_a_jump_is_not() -> None:
    x = np.linspace(0, 1, 60)
    y = 0.01 * np.random.default_rng(4).standard_normal(60) + (x > 0.5)
    spiked = y.copy()
    spiked[20] += 3.0
    assert abs(tame_outliers(x, spiked)[20]) < 0.2
    assert tame_outliers(x, y) == pytest.approx(y, abs=0.01)
