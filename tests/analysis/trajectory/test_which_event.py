"""Candidate events: when they happened, and which of them an onset follows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.analysis.trajectory.phase_detection import detect_phases
from pipeline.analysis.trajectory.schedule_events import Event, Follows, compare, judge, learning_rate_events
from pipeline.analysis.trajectory.words import verdict
from pipeline.base.typed_json import to_json
from tests.analysis.trajectory.shapes import RATES, WSD_DECAY
from tests.analysis.trajectory.simulate import Truth, log_steps, pythia_steps, simulate

STEP = pythia_steps()
X = STEP / STEP[-1]
FEW = 59


def events_of(rate: np.ndarray, step: np.ndarray = STEP) -> dict[str, Event]:
    return {e.name: e for e in learning_rate_events(step, rate)}


def step_of(event: Event) -> float:
    assert event.step is not None
    return event.step


@pytest.mark.parametrize("step", [STEP, log_steps(20)], ids=["pythia", "log"])
def test_events_of_the_rate_are_dated_where_they_happen(step: np.ndarray) -> None:
    x = step / step[-1]
    pythia, wsd = (events_of(6e-4 * RATES[name](x), step) for name in ("pythia", "wsd"))
    for event, truth in (
        (pythia["half_peak_learning_rate"], 72_930),  # half of the cosine, after a warm-up of 1,430 steps
        (pythia["min_learning_rate"], 115_139),
        (wsd["decay_start"], WSD_DECAY * 143_000),
    ):
        assert event.draws.min() <= truth <= event.draws.max()
        if step is STEP:
            assert abs(step_of(event) - truth) <= 200
    if step is STEP:
        assert abs(step_of(pythia["warmup_end"]) - 1_430) <= 20


def test_a_dip_that_is_made_good_is_not_the_decay() -> None:
    warm_up = np.minimum(STEP / 1430, 1.0)
    dip = np.where((STEP > 30_000) & (STEP < 40_000), 0.5, 1.0)
    decay = events_of(warm_up * dip * np.where(STEP > 90_000, 0.1, 1.0))["decay_start"]
    assert 90_000 <= step_of(decay) <= 91_000
    assert (decay.draws.min(), decay.draws.max()) == (90_000, 91_000)  # it lies between two checkpoints


@pytest.mark.parametrize(
    ("rate", "why"),
    [
        (RATES["pythia"](X), "no stable peak"),
        (RATES["cosine"](X), "no stable peak"),
        (0.55 + 0.45 * np.cos(2 * np.pi * ((3 * X) % 1)), "no stable peak|back at its peak"),
        (np.ones_like(X), "never decays"),
        (np.where(X < 0.5, 0.1, 1.0), "never decays"),
        (np.where((X > 0.4) & (X < 0.5), 0.1, 1.0), "back at its peak"),
    ],
    ids=["clipped", "cosine", "restarts", "constant", "warm-up", "dip"],
)
def test_a_rate_without_a_stable_peak_to_leave_has_no_start_of_its_decay(rate: np.ndarray, why: str) -> None:
    decay = events_of(rate)["decay_start"]
    assert decay.step is None
    assert re.search(why, str(decay.reason))


def test_a_window_that_begins_at_the_peak_shows_no_warm_up() -> None:
    late = STEP >= 5_000
    warm_up = events_of(RATES["wsd"](X[late]), STEP[late])["warmup_end"]
    assert warm_up.step is None
    assert "first checkpoint" in str(warm_up.reason)


@pytest.mark.parametrize("onset", [71_000, 73_000, 75_000])
def test_an_event_within_the_interval_is_not_ordered_by_the_point_estimates(onset: int) -> None:
    half = Event("half_peak_learning_rate", 73_000.0, np.linspace(72_000, 73_000, 11))
    warm_up = Event("warmup_end", 2_000.0, np.linspace(1_000, 2_000, 11))
    draws = np.linspace(onset - 6_000, onset + 6_000, 2_000)
    found = judge(onset, [compare(onset, draws, e, 0.95, 1_000) for e in (warm_up, half)])
    assert found.coincide == ("half_peak_learning_rate",)
    assert to_json(found)["follows"] == "half_peak_learning_rate"
    assert "alone" in found.reason


@pytest.mark.parametrize(
    ("truth", "follows"),
    [
        (Truth("explosion", at=77 / 143, rate="pythia", stops=77 / 143), Follows.FP32_PLATEAU),
        (Truth("explosion", at=0.51, rate="pythia", stops=100 / 143), Follows.HALF_PEAK_LR),
        (Truth("explosion", at=115_139 / 143_000, rate="pythia", stops=60 / 143), Follows.MIN_LR),
        (Truth("explosion", at=WSD_DECAY, rate="wsd", stops=60 / 143), Follows.DECAY_START),
        (Truth("explosion", at=95 / 143, rate="pythia", stops=40 / 143), Follows.NONE),
        (Truth("explosion", at=0.51, rate="pythia", stops=73 / 143), Follows.CANNOT_TELL),
        (Truth("linear", rate="pythia", stops=60 / 143), Follows.NO_ONSET),
        (Truth("log_rate", rate="cosine"), Follows.LEARNING_RATE),
    ],
    ids=lambda each: str(each) if isinstance(each, str) else "",
)
def test_the_onset_follows_the_only_event_that_coincides(truth: Truth, follows: Follows) -> None:
    report = detect_phases(simulate(truth, 0).curve, n_null=FEW)
    assert report.predictors.follows is follows
    assert report.predictors.reason
    assert verdict(report)


def test_the_lowest_point_of_a_flat_loss_is_no_event_and_that_of_one_that_rises_late_is() -> None:
    flat, rises = (
        detect_phases(
            simulate(Truth("explosion", at=0.7, rate="pythia", stops=0.3, late_rise=nats), 0).curve,
            n_null=FEW,
        )
        for nats in (0.0, 0.3)
    )
    best = [next(e for e in r.predictors.events if e.event == "fp32_best") for r in (flat, rises)]
    assert best[0].step is None
    assert "does not clearly rise" in str(best[0].reason)
    assert (best[1].step is not None) or "plateau" in str(best[1].reason)


def test_a_loss_that_falls_to_the_end_has_no_best_to_follow() -> None:
    report = detect_phases(simulate(Truth("explosion", at=0.8, rate="pythia"), 0).curve, n_null=FEW)
    assert report.convergence_step is None
    best = next(e for e in report.predictors.events if e.event == "fp32_best")
    assert best.step is None
    assert "end of the run" in str(best.reason)
