"""Growth between two windows, against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.statistics.noise import ar1_noise
from pipeline.analysis.trajectory.growth import Growth, Window, compare_growth, parse_window, ratio_power
from pipeline.base.errors import UsageError
from tests.analysis.trajectory import growth_rates

BEFORE, END = Window(200, 280), Window(360, 400)


def simulated(
    rng: np.random.Generator, final: float, n_batches: int = 16, text: np.ndarray | None = None
) -> Curve:
    """A gap of 5 % up to step 300, then linear to ``final`` times that at step 400, on shared texts."""
    step = np.arange(0, 401, 10)
    truth = 0.05 * (1 + (final - 1) * np.clip((step - 300) / 100, 0, 1))
    scatter = ar1_noise(rng, len(step), 1, 0.4)[:, 0] * 0.03
    difference = np.log1p(truth * np.exp(scatter))
    of_text = rng.normal(0, 0.15, n_batches) if text is None else text
    fp32 = 2.0 + rng.normal(0, 0.3, n_batches) + np.zeros((len(step), 1))
    variant = fp32 + difference[:, None] * (1 + of_text)
    return Curve(
        step=step,
        fp32_nll_nats=fp32.mean(axis=1),
        variant_nll_nats={"int4": variant.mean(axis=1)},
        fp32_batch_nll_nats=fp32,
        variant_batch_nll_nats={"int4": variant},
    )


def test_intervals_cover_the_truth_and_tell_growth_from_none() -> None:
    true_end = 0.05 * (1 + 1.0 * np.mean([0.6, 0.7, 0.8, 0.9, 1.0]))
    covered, told, false_alarms = 0, 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        flat, rising = simulated(rng, 1.0), simulated(rng, 2.0)
        first, second = compare_growth([flat, rising], "int4", BEFORE, END)
        covered += second.growth.lower <= true_end / 0.05 <= second.growth.upper
        assert second.against is not None
        told += second.against.lower > 1.25
        false_alarms += not first.growth.lower <= 1 <= first.growth.upper
    assert covered >= 52
    assert told >= 57
    assert false_alarms <= 8


@pytest.mark.parametrize("memory", growth_rates.MEMORIES)
def test_intervals_cover_the_truth_whatever_the_memory_of_checkpoints(memory: float) -> None:
    found = growth_rates.measure("kink at the decay", memory, 120, np.random.default_rng(7))
    least = 0.92 - 2.5 * math.sqrt(0.92 * 0.08 / 120)
    assert found.growth >= least
    assert found.ratio >= least
    assert found.half_width < 0.35, "an interval that says nothing covers everything"


def test_a_curve_without_batches_has_intervals_over_checkpoints_alone() -> None:
    whole = simulated(np.random.default_rng(0), 1.0)
    bare = Curve(whole.step, whole.fp32_nll_nats, whole.variant_nll_nats, name="table")
    with_text, without = (compare_growth([each], "int4", BEFORE, END)[0] for each in (whole, bare))
    assert (with_text.intervals, without.intervals) == ("checkpoints and text", "checkpoints")
    assert with_text.growth.estimate == without.growth.estimate
    assert with_text.before.lower < without.before.lower < without.before.upper < with_text.before.upper


def test_the_rule_is_met_as_often_as_its_power_says() -> None:
    rng, threshold = np.random.default_rng(3), 1.25
    flat, rising = simulated(rng, 1.0), simulated(rng, 2.0)
    ratio = compare_growth([flat, rising], "int4", BEFORE, END, threshold=threshold)[1].against
    assert ratio.power.threshold == threshold
    se, df = 0.06, 9.0
    power = ratio_power(math.log(1.5), se, df, threshold)
    estimates = math.log(1.5) + se * rng.standard_normal(20_000)
    seen = se * np.sqrt(rng.chisquare(df, 20_000) / df)
    met = estimates - stats.t.ppf(0.975, df) * seen > math.log(threshold)
    assert power.at_estimate == pytest.approx(met.mean(), abs=0.01)
    again = ratio_power(math.log(power.smallest_ratio), se, df, threshold)
    assert again.at_estimate == pytest.approx(0.8, abs=1e-6)


def test_the_estimates_are_plain_means_of_the_windows() -> None:
    curve = simulated(np.random.default_rng(0), 2.0)
    (found,) = compare_growth([curve], "int4", BEFORE, END)
    gap = curve.gap("int4")
    early, late = gap[20:29].mean(), gap[36:41].mean()
    assert isinstance(found, Growth)
    assert (found.before.estimate, found.end.estimate) == pytest.approx((early, late))
    assert found.growth.estimate == pytest.approx(late / early)
    assert found.before.lower < early < found.before.upper
    assert found.against is None


def test_what_cannot_be_compared_is_named() -> None:
    rng = np.random.default_rng(0)
    curve = simulated(rng, 1.0)
    with pytest.raises(UsageError, match=r"1 checkpoint from step 395 to 900.*0 to 400"):
        compare_growth([curve], "int4", BEFORE, Window(395, 900))
    with pytest.raises(UsageError, match="same evaluation"):
        compare_growth([curve, simulated(rng, 1.0, n_batches=8)], "int4", BEFORE, END)
    with pytest.raises(UsageError, match="no column int3"):
        compare_growth([curve], "int3", BEFORE, END)
    for text in ("", "5", "9:3", "a:b"):
        with pytest.raises(UsageError, match="FIRST:LAST"):
            parse_window(text)


def test_a_gap_that_may_be_nothing_has_no_growth() -> None:
    rng = np.random.default_rng(0)
    plain = simulated(rng, 2.0)
    nothing = Curve(
        step=plain.step,
        fp32_nll_nats=plain.fp32_nll_nats,
        variant_nll_nats={"int4": plain.fp32_nll_nats},
        fp32_batch_nll_nats=plain.fp32_batch_nll_nats,
        variant_batch_nll_nats={
            "int4": plain.fp32_batch_nll_nats + rng.normal(0, 1e-4, (len(plain.step), 16))
        },
    )
    for curves in ([nothing, plain], [plain, nothing]):
        found = compare_growth(curves, "int4", BEFORE, END)
        by_curve = dict(zip(map(id, curves), found, strict=True))
        assert (by_curve[id(nothing)].growth, by_curve[id(nothing)].against) == (None, None)
        assert by_curve[id(plain)].growth is not None
        assert by_curve[id(plain)].against is None  # there is nothing to compare it with


def test_a_loss_that_is_not_a_number_is_named() -> None:
    curve = simulated(np.random.default_rng(0), 2.0)
    curve.variant_nll_nats["int4"][curve.step == 220] = np.nan
    with pytest.raises(UsageError, match="int4 at step 220 is not a number"):
        compare_growth([curve], "int4", BEFORE, END)


def test_checkpoints_that_repeat_earlier_weights_are_in_no_window() -> None:
    """Revisions that serve the final weights, as some of a published suite do."""
    curve = simulated(np.random.default_rng(0), 2.0)
    wrong = np.isin(curve.step, curve.step[(curve.step >= BEFORE.first) & (curve.step <= BEFORE.last)][1::2])
    source = np.where(wrong, len(curve.step) - 1, np.arange(len(curve.step)))
    right = np.flatnonzero(~wrong)

    def chosen(rows: np.ndarray, step: np.ndarray, duplicate: np.ndarray | None) -> Curve:
        return Curve(
            step,
            curve.fp32_nll_nats[rows],
            {"int4": curve.nll("int4")[rows]},
            fp32_batch_nll_nats=curve.fp32_batch_nll_nats[rows],
            variant_batch_nll_nats={"int4": curve.variant_batch_nll_nats["int4"][rows]},
            duplicate=duplicate,
        )

    (flagged,) = compare_growth([chosen(source, curve.step, wrong)], "int4", BEFORE, END)
    (dropped,) = compare_growth([chosen(right, curve.step[right], None)], "int4", BEFORE, END)
    assert flagged == dropped
