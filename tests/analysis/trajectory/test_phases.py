"""The whole report: phases, growth, verdicts, and what goes into report.json."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pipeline.analysis.statistics.curve_tables import curve_from_frame
from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.trajectory.findings import GrowthKind, Resampled
from pipeline.analysis.trajectory.phase_detection import detect_phases
from pipeline.analysis.trajectory.stages import phase_of
from pipeline.analysis.trajectory.summary import summarise
from pipeline.analysis.trajectory.words import verdict
from pipeline.base.errors import UsageError
from pipeline.base.typed_json import to_json
from tests.analysis.trajectory.shapes import kinked
from tests.analysis.trajectory.simulate import Truth, even_steps, pythia_steps, simulate

STEP = pythia_steps()
X = STEP / STEP[-1]
P77 = 77 / 143
PAPER = Truth("explosion", at=P77, rate="pythia", stops=P77)
"""The paper's claim: 11 % to 517 % from the step at which full precision stands still, at Pythia's learning rate."""
FEW = 59
"""Simulated curves without an onset: enough for p = 0.017."""
REPORT_KEYS = {"convergence_step", "convergence_ci", "onset_step", "onset_ci", "phases"} | {
    *("predictors", "kurtosis_test", "best_checkpoint_for_int4", "int8_gap_max", "p_onset", "dose", "growth"),
    *("int4_gap_first", "int4_gap_last", "int4_gap_max", "p_beyond_learning_rate", "intervals"),
}


def test_three_phases_in_order_without_overlap() -> None:
    case = simulate(Truth("explosion", at=P77, rate="pythia", stagnates=True), 0)
    report = detect_phases(case.curve, n_null=FEW)
    assert [p.phase for p in report.phases] == [1, 2, 3]
    assert report.no_second_phase is None
    assert report.phases[0].first_step == 0
    assert report.phases[-1].last_step == 143_000
    assert abs(report.phases[1].first_step - 7_000) <= 4_000  # the abstract's plateau of some 70,000 steps
    assert abs(report.phases[2].first_step - 77_000) <= 1_000
    labels = phase_of(report.phases, STEP)
    assert labels == sorted(label for label in labels if label is not None)


def test_an_onset_while_full_precision_still_improves_has_no_plateau_before_it_and_says_so() -> None:
    summary = summarise(simulate(replace(PAPER, stops=100 / 143), 0).curve, n_null=FEW)
    assert [p.phase for p in summary.phases] == [1, 3]
    assert "no second phase" in " ".join(summary.verdict)


@pytest.mark.parametrize("rate", ["cosine", "pythia"])
def test_a_gap_that_answers_to_the_rate_is_growth_with_the_rate_and_no_onset(rate: str) -> None:
    report = detect_phases(simulate(Truth("log_rate", rate=rate), 1).curve, n_null=FEW)
    assert report.onset_step is None
    assert report.growth is GrowthKind.LEARNING_RATE
    assert report.dose is not None
    points = 100 * 0.03 * np.log(2)  # per halving
    assert report.dose.lower <= points <= report.dose.upper
    assert report.dose.estimate == pytest.approx(points, rel=0.4)
    inverse = detect_phases(simulate(Truth("inverse", rate=rate), 1).curve, n_null=FEW)
    assert inverse.p_onset is not None
    assert inverse.p_onset < 0.05  # time alone would have it take off
    assert inverse.onset_step is None
    assert inverse.p_beyond_learning_rate is not None
    assert inverse.p_beyond_learning_rate > 0.05


def test_an_explosion_is_more_than_the_rate_explains() -> None:
    report = detect_phases(simulate(replace(PAPER, at=0.6, stops=None), 2).curve, n_null=FEW)
    assert report.growth is GrowthKind.ONSET
    assert report.p_beyond_learning_rate is not None
    assert report.p_beyond_learning_rate <= 0.02


def test_without_a_learning_rate_only_time_is_asked_and_the_verdict_says_so() -> None:
    out = summarise(simulate(replace(PAPER, rate=None), 0).curve, n_null=FEW)
    assert out.p_beyond_learning_rate is None
    assert out.dose is None
    assert "without a learning rate in the table" in " ".join(out.verdict)


def test_a_rate_that_never_falls_explains_nothing() -> None:
    report = detect_phases(simulate(Truth("x10"), 0).curve, n_null=FEW)
    assert report.p_beyond_learning_rate == report.p_onset
    assert report.dose is None


@pytest.mark.parametrize(
    "truth", [Truth("x10", at=0.6, rate="pythia"), Truth("quadratic", rate="cosine"), PAPER]
)
def test_shares_of_the_run_are_shares_of_the_audited_window(truth: Truth) -> None:
    curve = simulate(truth, 3).curve
    here, later = (
        detect_phases(replace(curve, step=curve.step + offset), n_null=FEW) for offset in (0, 4_000_000)
    )
    assert later.growth is here.growth
    assert later.predictors.follows is here.predictors.follows
    assert (later.n_used, later.p_onset, later.dose) == (here.n_used, here.p_onset, here.dose)
    for one, other in ((later.onset_step, here.onset_step), (later.convergence_step, here.convergence_step)):
        assert one is other or (one is not None and other is not None and one - other == 4_000_000)


def test_a_late_window_gets_an_answer() -> None:
    step = np.arange(130_000, 144_000, 1_000)
    rng = np.random.default_rng(0)
    fp32 = 2 + 0.003 * rng.standard_normal(len(step))
    report = detect_phases(Curve(step, fp32, {"int4": fp32 + 0.1 + 0.003 * rng.standard_normal(len(step))}))
    assert report.onset_step is None
    assert report.convergence_at_or_before
    assert "too short to see it converge" in verdict(report)[0]
    assert report.phases[0].first_step == 130_000
    assert report.phases[-1].last_step == 143_000


def test_known_duplicates_enter_no_fit() -> None:
    case = simulate(replace(PAPER, duplicates=86), 4)
    report = detect_phases(case.curve, n_null=FEW)
    assert report.n_duplicates == 86
    assert report.onset_step is not None
    assert abs(report.onset_step - 77_000) <= 4_000
    blind = detect_phases(replace(case.curve, duplicate=None), n_null=FEW)
    assert blind.onset_step is None or abs(blind.onset_step - 77_000) > 4_000


def test_a_spike_widens_no_interval_when_batches_are_known() -> None:
    truth = Truth("x10", at=0.6)
    clean, spiked = (
        detect_phases(simulate(each, 5).curve, n_null=FEW) for each in (truth, replace(truth, outlier=0.5))
    )
    widths = [np.subtract(*reversed(report.onset_ci or (0, 0))) for report in (clean, spiked)]
    assert 0 < widths[1] <= 2 * widths[0]


def test_an_onset_at_the_last_places_looked_at_is_told_as_at_or_after() -> None:
    case = simulate(Truth("explosion", at=0.99), 0)
    report = detect_phases(case.curve, n_null=FEW)
    assert report.onset_at_or_after
    assert report.onset_ci is not None
    assert report.onset_ci[1] == 143_000
    assert report.onset_ci[0] <= 0.99 * 143_000
    assert "at or after" in " ".join(summarise(case.curve, n_null=FEW).verdict)
    assert not detect_phases(simulate(PAPER, 0).curve, n_null=FEW).onset_at_or_after


def test_the_intervals_say_whether_they_count_the_text() -> None:
    both, alone = (
        detect_phases(simulate(replace(PAPER, batches=known), 0).curve, n_null=9) for known in (True, False)
    )
    assert both.intervals is Resampled.CHECKPOINTS_AND_TEXT
    assert alone.intervals is Resampled.CHECKPOINTS
    assert to_json(alone)["intervals"] == "checkpoints"


def test_a_convergence_at_the_limit_is_told_with_its_doubts() -> None:
    sure, late = (summarise(simulate(Truth("linear", stops=at), 0).curve, n_null=9) for at in (0.42, 0.86))
    assert (sure.convergence_share, sure.convergence_at_limit) == (1.0, False)
    assert "uncertain" not in " ".join(sure.verdict)
    assert late.convergence_at_limit is True
    assert "the limit of what the rule sees" in " ".join(late.verdict)


def test_report_has_every_key_and_no_nan_even_when_the_run_diverges() -> None:
    curve = simulate(PAPER, 0).curve
    fp32, int4 = curve.fp32_nll_nats.copy(), curve.nll("int4").copy()
    fp32[-9:], int4[-12:] = np.nan, np.inf
    curve = replace(curve, fp32_nll_nats=fp32, variant_nll_nats={"int4": int4})
    summary = summarise(curve, n_null=FEW)
    out = json.loads(json.dumps(to_json(summary), allow_nan=False))
    assert set(out) >= REPORT_KEYS
    assert out["n_not_finite"] == 12
    assert out["phases"][-1]["last_step"] == STEP[-13]
    assert out["int8_gap_max"] is None
    assert abs(out["onset_step"] - 77_000) <= 2_000
    assert any("12 checkpoints are left out" in s for s in out["verdict"])
    assert phase_of(summary.phases, STEP)[-1] is None


def test_summary_numbers_are_read_off_the_table() -> None:
    case = simulate(PAPER, 0)
    fp32 = case.curve.fp32_nll_nats
    curve = replace(case.curve, variant_nll_nats={**case.curve.variant_nll_nats, "int8": fp32 + 0.001})
    out = to_json(summarise(curve, n_null=FEW))
    assert out["int4_gap_first"] == pytest.approx(0.11, abs=0.02)
    assert out["int4_gap_last"] == pytest.approx(5.17, abs=0.1)
    assert out["int8_gap_max"] == pytest.approx(0.001, abs=1e-4)
    assert isinstance(out["best_checkpoint_for_int4"], int)
    assert 60_000 <= out["best_checkpoint_for_int4"] <= 80_000
    words = " ".join(out["verdict"])
    assert f"{out['onset_step']:,}" in words
    assert f"{out['convergence_step']:,}" in words


@pytest.mark.parametrize("n_rows", [3, 7, 9, 13])
def test_short_tables_get_an_answer(n_rows: int) -> None:
    case = simulate(Truth("flat", spacing=f"even_{n_rows}"), 1)
    out = json.loads(json.dumps(to_json(summarise(case.curve)), allow_nan=False))
    assert out["onset_step"] is None
    assert "no onset" in out["onset_reason"]


def test_a_run_with_no_finite_loss_gets_an_answer() -> None:
    frame = pl.DataFrame({"step": [0, 1, 2], "fp32_nll_nats": [np.nan] * 3, "int4_nll_nats": [np.nan] * 3})
    out = json.loads(json.dumps(to_json(summarise(curve_from_frame(frame))), allow_nan=False))
    assert out["phases"] == []
    assert out["int4_gap_last"] is None


def test_the_same_seed_gives_the_same_report() -> None:
    curve = simulate(PAPER, 3).curve
    one, other = (detect_phases(curve, seed=5, n_null=9) for _ in range(2))
    assert one == other


def test_unknown_variant_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="int4"):
        detect_phases(simulate(PAPER, 0).curve, variant="int44")


def test_batches_that_disagree_about_the_onset_widen_its_interval() -> None:
    rng = np.random.default_rng(9)
    n_batches = 8
    early, late = (kinked(X, at, np.inf, 0.02, 0.09, "nats") for at in (0.45, 0.65))
    fp32 = 2 + 0.3 * rng.standard_normal(n_batches) + np.zeros((len(X), 1))
    gap = np.stack([early if k % 4 < 2 else late for k in range(n_batches)], axis=1)
    int4 = fp32 + np.log1p(gap) + 0.003 * rng.standard_normal(gap.shape)
    table = Curve(STEP, fp32.mean(1), {"int4": int4.mean(1)})
    batches = replace(table, fp32_batch_nll_nats=fp32, variant_batch_nll_nats={"int4": int4})
    alone, both = (detect_phases(each, n_null=FEW).onset_ci for each in (table, batches))
    assert alone is not None
    assert both is not None
    assert both[1] - both[0] > alone[1] - alone[0]


def test_long_tables_are_thinned_and_answered_at_checkpoints() -> None:
    step = even_steps(3000, last=150_000)
    gap = kinked(step / step[-1], 0.6, 5, 0.02, 0.09) + 0.0033 * np.random.default_rng(1).standard_normal(
        3000
    )
    fp32 = 1.7 - 0.1 * step / step[-1]
    report = detect_phases(Curve(step, fp32, {"int4": fp32 + np.log1p(gap)}), n_null=FEW)
    assert report.onset_step in set(step.tolist())
    assert report.onset_ci is not None
    assert report.onset_ci[0] <= 90_000 <= report.onset_ci[1]
    assert report.onset_ci[1] - report.onset_ci[0] < 10_000


@pytest.mark.parametrize(
    "wrong", [{"level": 0.0}, {"level": 1.0}, {"level": np.nan}, {"n_null": 0}, {"seed": -1}], ids=str
)
def test_impossible_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        detect_phases(simulate(PAPER, 0).curve, **wrong)  # type: ignore[arg-type]
