"""The rule for use during training: silent where nothing worsens, prompt where it does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.analysis.trajectory.worsening import Worsening, scatter
from pipeline.base.errors import UsageError
from tests.analysis.trajectory.alarms import HARMLESS, STEPS, TURN, WORSE, found, losses


@pytest.mark.parametrize("name", [name for name in HARMLESS if "0.9" not in name])
def test_a_run_that_never_worsens_raises_no_alarm(name: str) -> None:
    truth, noise = HARMLESS[name]
    alarms = [at for at in found(truth, 0.01, "e-detector", 12, **noise) if at is not None]
    assert len(alarms) <= 1  # 0 to 2.5 % in `python -m tests.analysis.trajectory.alarms`


def test_an_explosion_is_told_within_ten_checkpoints_and_never_before_it() -> None:
    turn = int(np.searchsorted(STEPS, TURN))
    for at in found(WORSE["explosion at 77k"], 0.01, "e-detector", 8):
        assert at is not None
        assert turn < at <= turn + 10
    for at in found(WORSE["explosion at 77k"], 0.01, "cusum", 8):
        assert at is not None
        assert turn < at <= turn + 9


def watched(values: np.ndarray, **options: object) -> Worsening:
    rule = Worsening(len(values), **options)  # type: ignore[arg-type]
    for step, value in zip(STEPS, values, strict=False):
        rule.observe(int(step), float(value))
    return rule


def test_the_alarm_names_about_when_it_began_and_stays() -> None:
    values = losses(WORSE["rises 0.3 from 77k"], np.random.default_rng(1))
    alarm = watched(values).alarm
    assert alarm is not None
    assert TURN <= alarm.worse_since <= alarm.step
    values[-5:] = 1.0  # better again afterwards: what was told is not taken back
    assert watched(values).alarm == alarm


def test_one_wild_checkpoint_or_a_diverged_one_is_no_alarm() -> None:
    truth, _ = HARMLESS["flat from 20k"]
    for wild in (10.0, np.nan, np.inf):
        values = losses(truth, np.random.default_rng(2))
        values[100] = wild
        assert watched(values).alarm is None


def test_the_scatter_of_a_curve_is_that_of_its_noise() -> None:
    rng = np.random.default_rng(3)
    sds = [scatter(np.linspace(2, 1, 40) + rng.normal(0, 0.01, 40))[0] for _ in range(50)]
    assert np.median(sds) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"planned": 0},
        {"planned": 5, "alpha": 1.0},
        *({"planned": 5, "margin_nats": margin} for margin in (-1, math.nan, math.inf)),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Worsening(**options)  # type: ignore[arg-type]
