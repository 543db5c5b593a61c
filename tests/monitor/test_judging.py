"""Verdicts from losses alone: the alarm, the advice to stop, what to ship, and states."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.base.errors import UsageError
from pipeline.base.typed_json import from_json, to_json
from pipeline.monitor.judging import Judge, RateOutlook, WatchSettings
from pipeline.monitor.verdicts import Observed, Verdict

STEPS = range(0, 60_000, 1_000)
TURN = 30_000


def losses(after_turn_nats: float, seed: int = 0) -> list[float]:
    """Falling to 2.0 nats at TURN, then changing by ``after_turn_nats`` to the end, with checkpoint scatter."""
    noise = np.random.default_rng(seed).normal(0, 0.004, len(STEPS))
    fall = [2 + 0.5 * max(0.0, 1 - step / TURN) ** 2 for step in STEPS]
    late = [after_turn_nats * max(0, step - TURN) / (STEPS[-1] - TURN) for step in STEPS]
    return [float(a + b + c) for a, b, c in zip(fall, late, noise, strict=True)]


def verdicts(
    values: list[float], rate: Callable[[int], float | None] = lambda step: None, **outlook: object
) -> list[Verdict]:
    judge = Judge(WatchSettings(60_000), RateOutlook(60_000, **outlook), "int4")  # type: ignore[arg-type]
    return [
        judge.observe(Observed(step, {"fp32": value - 0.05, "int4": value}, rate(step)))
        for step, value in zip(STEPS, values, strict=True)
    ]


def test_a_run_that_gets_worse_is_told_with_the_step_where_it_began() -> None:
    found = verdicts(losses(0.3))
    first = next(each for each in found if each.alarm)
    assert first.worse_since is not None
    assert abs(first.worse_since - TURN) <= 6_000
    assert found[-1].best_step is not None
    assert abs(found[-1].best_step - TURN) <= 6_000
    assert found[-1].ship is not None
    assert (found[-1].ship.step, found[-1].ship.weights) == (found[-1].best_step, "live")
    assert found[-1].numbers["int4_gap"] == pytest.approx(math.expm1(0.05))


@pytest.mark.parametrize("late", [0.0, -0.1])
def test_a_run_that_does_not_get_worse_raises_no_alarm(late: float) -> None:
    for seed in range(5):
        assert not any(each.alarm for each in verdicts(losses(late, seed)))


def test_a_loss_that_is_not_finite_is_kept_and_told_and_no_alarm() -> None:
    values = losses(0.0)
    for at in (20, 40, 41):
        values[at] = math.nan
    found = verdicts(values)
    assert not any(each.alarm for each in found)
    assert math.isnan(found[40].numbers["int4_nll_nats"])
    assert found[40].notes
    assert not found[42].notes
    assert found[40].best_step == found[39].best_step


def cosine(step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / 60_000))


def advice(rate: Callable[[int], float | None], **outlook: object) -> list[int]:
    """Steps at which the worsening run is advised to stop."""
    found = verdicts(losses(0.3), rate, **outlook)
    assert any(each.alarm for each in found)
    assert all(each.stop_advice.reason for each in found)
    return [step for step, each in zip(STEPS, found, strict=True) if each.stop_advice]


def test_no_stop_is_advised_while_the_rate_has_to_fall_or_may_have_to() -> None:
    assert not advice(lambda step: None)
    assert not advice(cosine)  # it is 0.0007 at the last checkpoint, and nobody said that it goes no lower
    assert not advice(cosine, min_learning_rate=0.0)
    assert not advice(cosine, planned_rate=cosine)
    assert not advice(lambda step: 1.0)  # the plateau of warmup-stable-decay looks like this
    assert not advice(lambda step: 1.0, planned_rate=lambda step: 1.0 if step < 59_500 else 0.1)
    assert not advice(lambda step: 1.0, min_learning_rate=0.1)


def test_a_stop_is_advised_where_the_rate_has_nothing_left_to_fall() -> None:
    early = advice(lambda step: 1.0, min_learning_rate=1.0)
    assert early
    assert advice(lambda step: 1.0, planned_rate=lambda step: 1.0) == early
    decayed = advice(lambda step: 1.0 if step < 45_000 else 0.1, min_learning_rate=0.1)
    assert min(decayed) == 45_000
    assert min(advice(lambda step: max(0.0, 1 - step / 50_000))) == 50_000


def test_warming_up_is_not_having_fallen() -> None:
    warm = RateOutlook(100, min_learning_rate=0.5)
    assert warm.may_fall(1, [0.0, 0.5]) is not None
    assert warm.may_fall(2, [0.0, 0.5, 1.0]) is not None
    assert warm.may_fall(9, [0.0, 0.5, 1.0, 0.5]) is None
    assert RateOutlook(100).may_fall(0, [0.0]) is not None


def test_no_stop_is_advised_once_a_new_best_has_come() -> None:
    values = losses(0.3)
    values[-3:] = [1.5, 1.5, 1.5]
    found = verdicts(values, lambda step: 1.0, min_learning_rate=1.0)
    assert found[-4].stop_advice
    assert found[-1].alarm
    assert not found[-1].stop_advice


def test_an_average_of_the_weights_is_shipped_where_it_is_better() -> None:
    judge = Judge(WatchSettings(10), RateOutlook(10), "int4")
    judge.observe(Observed(1, {"fp32": 1.9, "int4": 2.0}, averages={"ema": 1.8}))
    found = judge.observe(Observed(2, {"fp32": 1.8, "int4": 1.9}, averages={"ema": math.nan, "lawa": 1.85}))
    assert found.best_step == 2
    assert found.ship is not None
    assert (found.ship.step, found.ship.weights, found.ship.nll_nats) == (1, "ema", 1.8)
    assert any("ema" in note for note in found.notes)


def test_observations_survive_json_and_give_equal_verdicts() -> None:
    values = losses(0.3)
    values[5] = math.nan
    whole = verdicts(values)
    judge = Judge(WatchSettings(60_000), RateOutlook(60_000), "int4")
    for at, (step, value) in enumerate(zip(STEPS, values, strict=True)):
        found = judge.observe(Observed(step, {"fp32": value - 0.05, "int4": value}))
        assert repr(found) == repr(whole[at])  # repr: NaN equals NaN
        plain = json.loads(json.dumps([to_json(each) for each in judge.seen], allow_nan=False))
        judge = Judge(judge.settings, judge.outlook, "int4", [from_json(Observed, each) for each in plain])


def test_sentences_speak_of_the_label_and_numbers_of_the_column() -> None:
    judge = Judge(WatchSettings(10), RateOutlook(10), "int4-g64-asym")
    found = judge.before(1).observe(Observed(1, {"fp32": 1.0, "int4_g64_asym": 1.1}))
    assert found.stop_advice.reason.startswith("int4-g64-asym ")
    assert found.numbers["int4_g64_asym_nll_nats"] == 1.1


def test_steps_that_go_back_are_refused_until_the_run_is_rewound() -> None:
    values = losses(0.3)
    judge = Judge(WatchSettings(60_000), RateOutlook(60_000), "int4")
    for step, value in zip(STEPS, values, strict=True):
        judge.observe(Observed(step, {"fp32": value, "int4": value}))
    for back in (59_000, 10_000, -1, 61_000.5):
        with pytest.raises(UsageError, match=str(back)):
            judge.observe(Observed(back, {"fp32": 1.0, "int4": 1.0}))  # type: ignore[arg-type]
    judge = judge.before(20_000)
    assert judge.seen[-1].step == 19_000
    assert not judge.observe(Observed(20_000, {"fp32": 2.0, "int4": 2.0})).alarm


@pytest.mark.parametrize(
    "wrong",
    [
        {"plan_steps": 0}, {"plan_steps": 2.5}, {"observations": 0}, {"margin_nats": -1.0}, {"alpha": 0.0},
        {"rule": "patience"},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        WatchSettings(**{"plan_steps": 10, **wrong})  # type: ignore[arg-type]


def test_impossible_rates_are_refused() -> None:
    for rate in (-1.0, math.nan):
        with pytest.raises(UsageError, match="rate"):
            Judge(WatchSettings(9), RateOutlook(9), "int4").observe(Observed(1, {"fp32": 1, "int4": 1}, rate))
        with pytest.raises(UsageError, match="min_learning_rate"):
            RateOutlook(9, min_learning_rate=rate)
