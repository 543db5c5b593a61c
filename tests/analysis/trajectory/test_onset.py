"""The onset: against brute force, against known kinks, and on curves that only look like one."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.statistics.hinges import STARTS, HingeGrid, columns, transients
from pipeline.analysis.statistics.noise import whiten
from pipeline.analysis.trajectory.phase_detection import detect_phases
from tests.analysis.trajectory.shapes import kinked
from tests.analysis.trajectory.simulate import even_steps, pythia_steps

STEP = pythia_steps()
X = STEP / STEP[-1]


def curve_of(gap: np.ndarray, step: np.ndarray = STEP) -> Curve:
    fp32 = 1.7 + 0.5 * np.exp(-step / step[-1] / 0.1)
    return Curve(step, fp32, {"int4": fp32 + np.log1p(gap)})


def test_every_model_in_the_family_has_the_residuals_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0.01, 1, 60)
    sd, phi = 0.5 + x, 0.3
    grid = HingeGrid(x, sd, phi, np.array([0.3, 0.5, 0.7]))
    y = (3 * np.maximum(x - 0.5, 0) + 0.2 * rng.standard_normal(60))[:, None]
    weights = grid.weigh(y).onset[:, 0]
    allowed = np.flatnonzero(np.isfinite(weights))
    assert len(allowed) > 10
    for i in allowed:
        shape = grid.shapes[i]
        design, z = whiten(columns(x, shape) / sd[:, None], phi), whiten(y[:, 0] / sd, phi)
        rss = float(((z - design @ np.linalg.lstsq(design, z, rcond=None)[0]) ** 2).sum())
        n_late = sum(s.late_knot is not None for s in grid.shapes)
        prior = STARTS[shape.start] * 0.5 / (3 if shape.transient < 0 else 3 * len(transients(x)))
        if shape.late_knot is not None:
            prior = 0.5 * 0.1 / n_late
        k = 4 if shape.transient < 0 and shape.late_knot is None else 6
        assert weights[i] == pytest.approx(-30 * np.log(rss) - k / 2 * np.log(60) + np.log(prior), abs=1e-6)


@pytest.mark.parametrize("scale", ["gap", "nats", "log"])
@pytest.mark.parametrize("at", [0.3, 0.54, 0.8])
def test_a_clean_kink_is_found_to_the_checkpoint_on_every_scale(scale: str, at: float) -> None:
    report = detect_phases(curve_of(kinked(X, at, 5, 0.11, 5.17, scale)))
    assert report.onset_step is not None
    assert report.onset_ci is not None
    assert abs(report.onset_step - at * STEP[-1]) <= 1000
    assert report.onset_ci[0] <= at * STEP[-1] <= report.onset_ci[1]
    assert report.onset_evidence is not None
    assert report.onset_evidence.growth_ratio == pytest.approx(5, rel=0.15)


@pytest.mark.parametrize(
    "gap",
    [
        np.zeros_like(X),
        np.full_like(X, 0.05),
        0.02 + 0.05 * X,
        0.10 - 0.05 * X,
        0.02 * np.exp(3 * X),
        np.expm1(0.1 + 1.7 * X),
        0.1 * np.sqrt(X),
        0.02 + 0.01 * np.log1p(STEP),
        0.02 + 0.05 * (1 - np.exp(-X / 0.17)),
        kinked(X, 0.5, 0.2, 0.02, 0.09),
    ],
    ids=["zero", "flat", "linear", "falling", "exponential", "nats", "sqrt", "log", "saturating", "slowing"],
)
def test_clean_curves_without_an_onset_have_none(gap: np.ndarray) -> None:
    report = detect_phases(curve_of(gap))
    assert report.onset_step is None
    assert report.onset_ci is None
    assert report.onset_reason is not None


def test_growth_that_only_becomes_half_as_fast_again_is_no_onset() -> None:
    report = detect_phases(curve_of(kinked(X, 0.5, 1.5, 0.02, 0.4)))
    assert report.onset_step is None
    assert "1.5" in str(report.onset_reason)


def test_an_onset_too_small_to_matter_is_not_reported() -> None:
    assert detect_phases(curve_of(0.0005 + 0.001 * np.maximum(X - 0.5, 0))).onset_step is None


def test_loss_spikes_do_not_move_the_onset() -> None:
    gap = kinked(X, 0.6, 10, 0.02, 0.09) + 0.0033 * np.random.default_rng(5).standard_normal(len(X))
    gap[[60, 90, 120]] += 0.5
    report = detect_phases(curve_of(gap))
    assert report.onset_step is not None
    assert abs(report.onset_step / STEP[-1] - 0.6) < 0.04


@pytest.mark.parametrize("n", [3, 7, 8, 11])
def test_few_checkpoints_are_no_error_and_the_reasons_name_how_many_are_needed(n: int) -> None:
    step = even_steps(n)
    report = detect_phases(curve_of(kinked(step / step[-1], 0.5, 50, 0.02, 2.0), step))
    assert report.onset_step is None
    assert str(report.onset_reason).endswith("too few: at least 12 are needed")
    assert str(report.convergence_reason).endswith("at least 8 are needed") == (report.n_used < 8)
