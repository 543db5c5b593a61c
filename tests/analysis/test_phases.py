"""The whole report: phases, candidate events, verdicts, and what goes into report.json."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.curves import Curve
from pipeline.analysis.events import Event, compare, judge, learning_rate_events
from pipeline.analysis.phases import detect_phases
from pipeline.analysis.summary import summarise
from pipeline.analysis.words import verdict
from pipeline.errors import UsageError
from tests.analysis.simulate import build, even_steps, kinked, pythia_steps

STEP = pythia_steps(143_000)
X = STEP / STEP[-1]
REPORT_KEYS = {"n_checkpoints", "convergence_step", "convergence_ci", "onset_step", "onset_ci", "phases"} | {
    *("predictors", "kurtosis_test", "best_checkpoint_for_int4", "int8_gap_max"),
    *("int4_gap_first", "int4_gap_last", "int4_gap_max"),
}


def pythia_learning_rate(step: np.ndarray) -> np.ndarray:
    """6e-4, warm-up 1430, cosine to zero clipped at 6e-5 (gpt-neox v1.0)."""
    cosine = 0.5 * (1 + np.cos(np.pi * (step - 1430) / 143_000))
    return np.where(step < 1430, 6e-4 * step / 1430, np.maximum(6e-4 * cosine, 6e-5))


def like_the_paper(onset: float = 77_000, converged: float = 60_000, seed: int = 0) -> Curve:
    """INT4 gap 11 % -> 517 % from `onset`, FP32 flat from `converged`, Pythia's learning rate."""
    rng = np.random.default_rng(seed)
    gap = kinked(X, onset / 143_000, np.inf, 0.11, 5.17, "nats")
    curve = build(rng, STEP, gap, sd=0.0033 * (1 + gap), onset=onset).curve
    fp32 = 1.7 + 0.8 * np.maximum(converged / 143_000 - X, 0) + 0.004 * rng.standard_normal(len(X))
    shifted = {k: v - curve.fp32_nll_nats + fp32 for k, v in curve.variant_nll_nats.items()}
    return replace(
        curve, fp32_nll_nats=fp32, variant_nll_nats=shifted, learning_rate=pythia_learning_rate(STEP),
        kurtosis=1.0 + X,
    )  # fmt: skip


def with_a_clear_best(curve: Curve, converged: float) -> Curve:
    """The curve with an FP32 loss that rises after its plateau has begun."""
    late_rise = 0.3 * np.maximum(X - converged / 143_000 - 0.02, 0)
    nll = {k: v + late_rise for k, v in curve.variant_nll_nats.items()}
    return replace(curve, fp32_nll_nats=curve.fp32_nll_nats + late_rise, variant_nll_nats=nll)


def test_three_phases_in_order_without_overlap() -> None:
    report = detect_phases(like_the_paper())
    assert [p.phase for p in report.phases] == [1, 2, 3]
    assert report.phases[0].first_step == 0
    assert report.phases[-1].last_step == 143_000
    assert abs(report.phases[1].first_step - 60_000) <= 2_000
    assert abs(report.phases[2].first_step - 77_000) <= 2_000
    labels = report.phase_of(STEP)
    assert labels == sorted(label for label in labels if label is not None)


def test_an_onset_before_convergence_leaves_no_plateau() -> None:
    report = detect_phases(like_the_paper(onset=60_000, converged=100_000))
    assert [p.phase for p in report.phases] == [1, 3]


def test_learning_rate_events_of_pythia_are_where_its_schedule_puts_them() -> None:
    steps = {e.event: e.step for e in detect_phases(like_the_paper()).predictors.events}
    assert steps["warmup_end"] == 2_000
    assert steps["half_peak_learning_rate"] == 73_000  # the cosine is a half at 1430 + 71500 = 72,930
    assert steps["min_learning_rate"] == 116_000  # clipped from 115,139 on


@pytest.mark.parametrize(
    ("onset", "converged", "follows"),
    [
        (73_000, 40_000, "half_peak_learning_rate"),
        (115_500, 50_000, "min_learning_rate"),
        (95_000, 40_000, "none"),
    ],
)
def test_the_onset_follows_the_only_event_that_coincides(
    onset: float, converged: float, follows: str
) -> None:
    found = detect_phases(with_a_clear_best(like_the_paper(onset, converged), converged))
    assert found.predictors.follows == follows
    assert found.predictors.coincide == (() if follows == "none" else (follows,))


def test_events_that_coincide_with_each_other_cannot_be_told_apart() -> None:
    curve = like_the_paper(onset=73_000, converged=73_500)
    found = detect_phases(curve).predictors
    assert found.follows == "cannot tell"
    assert {"fp32_plateau", "half_peak_learning_rate"} <= set(found.coincide)


def events_of(rate: np.ndarray) -> dict[str, Event]:
    return {e.name: e for e in learning_rate_events(STEP, rate)}


def test_a_decay_starts_at_the_last_checkpoint_of_a_stable_peak() -> None:
    warm_up = np.minimum(STEP / 1430, 1.0)
    decay = events_of(6e-4 * warm_up * np.minimum(1.0, (143_000 - STEP) / (143_000 - 100_500)))["decay_start"]
    assert decay.step == 100_000
    assert (decay.draws.min(), decay.draws.max()) == (100_000, 101_000)  # it lies between two checkpoints
    dip = np.where((STEP > 30_000) & (STEP < 40_000), 0.5, 1.0)  # a dip that is made good is not the decay
    steps = np.where(STEP > 90_000, 0.1, 1.0)
    assert events_of(warm_up * dip * steps)["decay_start"].step == 90_000


@pytest.mark.parametrize(
    ("rate", "why"),
    [
        (pythia_learning_rate(STEP), "no stable peak"),
        (0.55 + 0.45 * np.cos(np.pi * X), "no stable peak"),
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


@pytest.mark.parametrize(
    ("onset", "follows", "said"),
    [
        (75_000, "half_peak_learning_rate", "follows half of the peak learning rate, the only"),
        (75_000, "half_peak_learning_rate", "by 2,000 steps (95% interval"),
        (73_000, "half_peak_learning_rate", "by 0 steps"),
        (71_000, None, "The onset coincides with half of the peak learning rate alone (2,000 steps later)"),
    ],
)
def test_an_onset_follows_only_what_is_not_estimated_after_it(
    onset: int, follows: str | None, said: str
) -> None:
    report = detect_phases(like_the_paper())
    half = Event("half_peak_learning_rate", 73_000.0, np.linspace(72_000, 73_000, 11))
    warm_up = Event("warmup_end", 2_000.0, np.linspace(1_000, 2_000, 11))
    draws = np.linspace(onset - 6_000, onset + 6_000, 2_000)
    found = judge(onset, [compare(onset, draws, e, 0.95, 1_000) for e in (warm_up, half)])
    assert found.coincide == ("half_peak_learning_rate",)
    assert found.to_json()["follows"] == follows
    sentence = verdict(replace(report, onset_step=onset, predictors=found))[2]
    assert said in sentence
    assert ("the nearest before it is the end of warm-up, by 69,000 steps" in sentence) == (follows is None)


def test_a_late_decay_takes_part_in_the_comparison() -> None:
    rate = np.minimum(STEP / 1430, 1.0) * np.minimum(1.0, (143_000 - STEP) / 43_000)
    curve = with_a_clear_best(like_the_paper(onset=101_000, converged=40_000), 40_000)
    report = detect_phases(replace(curve, learning_rate=rate))
    assert report.predictors.follows == "decay_start"
    assert "The onset follows the start of the learning-rate decay" in " ".join(verdict(report))


def test_a_convergence_at_the_limit_is_told_with_its_doubts() -> None:
    sure, late = (summarise(like_the_paper(converged=at)).to_json() for at in (60_000, 119_000))
    assert (sure["convergence_share"], sure["convergence_at_limit"]) == (1.0, False)
    assert "uncertain" not in " ".join(sure["verdict"])  # type: ignore[arg-type]
    assert late["convergence_at_limit"] is True
    assert "the limit of what the rule sees" in " ".join(late["verdict"])  # type: ignore[arg-type]


def test_report_has_every_key_and_no_nan_even_when_the_run_diverges() -> None:
    curve = like_the_paper()
    fp32, int4 = curve.fp32_nll_nats.copy(), curve.nll("int4").copy()
    fp32[-9:], int4[-12:] = np.nan, np.inf
    curve = replace(curve, fp32_nll_nats=fp32, variant_nll_nats={"int4": int4})
    summary = summarise(curve)
    out = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert set(out) >= REPORT_KEYS
    assert out["n_not_finite"] == 12
    assert out["phases"][-1]["last_step"] == STEP[-13]
    assert out["int8_gap_max"] is None
    assert abs(out["onset_step"] - 77_000) <= 2_000
    assert any("12 checkpoints are left out" in s for s in out["verdict"])
    assert summary.phases.phase_of(STEP)[-1] is None


def test_summary_numbers_are_read_off_the_table() -> None:
    out = summarise(like_the_paper()).to_json()
    assert out["int4_gap_first"] == pytest.approx(0.11, abs=0.02)
    assert out["int4_gap_last"] == pytest.approx(5.17, abs=0.1)
    assert isinstance(out["int8_gap_max"], float)
    assert 0 <= out["int8_gap_max"] < 0.01
    assert isinstance(out["best_checkpoint_for_int4"], int)
    assert 40_000 <= out["best_checkpoint_for_int4"] <= 80_000
    words = " ".join(out["verdict"])  # type: ignore[arg-type]
    assert f"{out['onset_step']:,}" in words
    assert f"{out['convergence_step']:,}" in words


@pytest.mark.parametrize("n_rows", [3, 7, 9, 13])
def test_short_tables_get_an_answer(n_rows: int) -> None:
    step = even_steps(n_rows)
    case = build(np.random.default_rng(n_rows), step, 0.05 + 0 * step)
    out = json.loads(json.dumps(summarise(case.curve).to_json(), allow_nan=False))
    assert out["onset_step"] is None
    assert "no onset" in out["onset_reason"]


def test_a_run_with_no_finite_loss_gets_an_answer() -> None:
    frame = pl.DataFrame({"step": [0, 1, 2], "fp32_nll_nats": [np.nan] * 3, "int4_nll_nats": [np.nan] * 3})
    out = json.loads(json.dumps(summarise(Curve.from_frame(frame)).to_json(), allow_nan=False))
    assert out["phases"] == []
    assert out["int4_gap_last"] is None


def test_the_same_seed_gives_the_same_report() -> None:
    curve = like_the_paper(seed=3)
    assert detect_phases(curve, seed=5).to_json() == detect_phases(curve, seed=5).to_json()


def test_unknown_variant_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="int4"):
        detect_phases(like_the_paper(), variant="int44")


def test_batches_that_disagree_about_the_onset_widen_its_interval() -> None:
    rng = np.random.default_rng(9)
    n_batches = 8
    early, late = (kinked(X, at, np.inf, 0.02, 0.09, "nats") for at in (0.45, 0.65))
    fp32 = 2 + 0.3 * rng.standard_normal(n_batches) + np.zeros((len(X), 1))
    gap = np.stack([early if k % 4 < 2 else late for k in range(n_batches)], axis=1)
    int4 = fp32 + np.log1p(gap) + 0.003 * rng.standard_normal(gap.shape)
    table = Curve(STEP, fp32.mean(1), {"int4": int4.mean(1)})
    batches = replace(table, fp32_batch_nll_nats=fp32, variant_batch_nll_nats={"int4": int4})
    alone, both = detect_phases(table).onset_ci, detect_phases(batches).onset_ci
    assert alone is not None
    assert both is not None
    assert both[1] - both[0] > alone[1] - alone[0]


def test_a_loss_that_falls_to_the_end_has_no_best_to_follow() -> None:
    curve = like_the_paper(onset=120_000)
    falling = -0.4 * X
    nll = {k: v + falling for k, v in curve.variant_nll_nats.items()}
    report = detect_phases(replace(curve, fp32_nll_nats=curve.fp32_nll_nats + falling, variant_nll_nats=nll))
    assert report.convergence_step is None
    assert [p.phase for p in report.phases] == [1, 3]
    best = next(e for e in report.predictors.events if e.event == "fp32_best")
    assert best.step is None
    assert "end of the run" in str(best.reason)


def test_long_tables_are_thinned_and_answered_at_checkpoints() -> None:
    step = even_steps(3000, last=150_000)
    case = build(np.random.default_rng(1), step, kinked(step / step[-1], 0.6, 5, 0.02, 0.09))
    report = detect_phases(case.curve)
    assert report.onset_step in set(step.tolist())
    assert report.onset_ci is not None
    assert report.onset_ci[0] <= 90_000 <= report.onset_ci[1]
    assert report.onset_ci[1] - report.onset_ci[0] < 10_000
