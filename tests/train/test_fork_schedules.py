"""Schedules of a fork against torch's own and against values worked by hand; arms from words."""

import warnings
from itertools import groupby

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.train.arms import PARAMETERS, Arm, ForkRates, make_arm_schedule, parse_arms, resolve
from pipeline.train.schedules import Constant, LockIn, WarmRestarts

RATES = ForkRates(base_lr=1e-3, peak_lr=4e-3, steps=80)


def rates_of(word: str, rates: ForkRates = RATES) -> list[float]:
    schedule = make_arm_schedule(resolve(parse_arms(word)[0], rates), rates)
    return [schedule(step) for step in range(rates.steps + 1)]


def torch_rates(make, base: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule = make(optimizer)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps + 1):
            found.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    return found


@pytest.mark.parametrize(("period", "t_mult"), [(20, 1), (7, 1), (10, 2), (5, 3)])
def test_warm_restarts_are_torchs(period, t_mult):
    ours = WarmRestarts(eta_max=4e-3, eta_min=1e-4, period=period, t_mult=t_mult)
    theirs = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, T_0=period, T_mult=t_mult, eta_min=1e-4
        ),
        4e-3,
        80,
    )
    assert [ours(step) for step in range(81)] == pytest.approx(theirs, rel=1e-9)


def test_the_arms_of_the_paper_hang_on_the_rate_at_the_fork():
    theirs = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=80, eta_min=1e-4),
        1e-3,
        80,
    )
    assert rates_of("cosine") == pytest.approx(theirs, rel=1e-6)
    sgdr = rates_of("sgdr")  # back to the training's peak every quarter of the run
    assert [sgdr[step] for step in (0, 10, 20, 40)] == pytest.approx([4e-3, 2.05e-3, 4e-3, 4e-3])
    assert min(sgdr) > 1e-4


def test_the_controls():
    assert set(rates_of("constant")) == {1e-3}
    assert set(rates_of("noop")) == {0.0}
    wsd = rates_of("wsd")
    assert [wsd[step] for step in (0, 64, 72, 80)] == pytest.approx([1e-3, 1e-3, 5e-4, 0.0])
    pythia = rates_of("pythia")  # to zero, clipped at a tenth
    assert pythia[40] == pytest.approx(5e-4)
    assert pythia[-1] == pytest.approx(1e-4)
    assert pythia[70] == pythia[-1] < rates_of("cosine")[70]


def test_lock_in_bumps_by_its_amplitude_and_settles_at_its_cool_rate():
    oli = LockIn(Constant(80, 1.0, 0.0, 0), period=20, amplitude=0.8, cool_factor=0.25)
    cycle = [oli(step) for step in range(20)]
    assert max(cycle) == cycle[5] == pytest.approx(1.8)
    assert cycle[0] == 1.0
    assert cycle[2] == pytest.approx(1 + 0.8 * 0.345491502812526)  # sin^2(pi/5)
    assert cycle[10:] == [0.25] * 10
    assert [oli(step + 60) for step in range(20)] == pytest.approx(cycle)
    labels = [(label, len(list(group))) for label, group in groupby(oli.phase(step) for step in range(40))]
    assert labels == [("bump", 10), ("cool", 5), ("settled", 5)] * 2


def test_without_amplitude_and_cooling_lock_in_is_the_cosine():
    assert rates_of("oli:amplitude=0:cool_factor=1") == pytest.approx(rates_of("cosine"))


def test_cold_moments_ramp_every_schedule_alike():
    rates = ForkRates(1e-3, 4e-3, 80, rewarm_steps=10)
    for word in PARAMETERS:
        schedule = make_arm_schedule(resolve(parse_arms(word)[0], rates), rates)
        plain = make_arm_schedule(resolve(parse_arms(word)[0], RATES), RATES)
        assert schedule(0) == pytest.approx(plain(0) / 10)
        assert [schedule(step) for step in (9, 10, 50)] == [plain(step) for step in (9, 10, 50)]
        assert [schedule.phase(step) for step in (0, 9)] == ["rewarm"] * 2
        assert schedule.phase(10) == plain.phase(10)


def test_a_sweep_is_one_arm_per_value_and_optimizers_run_under_the_first_schedule():
    arms = parse_arms("cosine,oli:period=40", sweep="amplitude=0.1,3", optimizers="adamw,muon")
    assert [arm.label for arm in arms] == [
        "cosine", "oli-amplitude0.1-period40", "oli-amplitude3-period40", "cosine-muon",
    ]  # fmt: skip
    assert resolve(arms[1], RATES).settings()["amplitude"] == 0.1
    assert resolve(arms[2], RATES).label == arms[2].label


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"schedules": "cosine,olli"}, "did you mean 'oli'"),
        ({"schedules": "cosine,cosine"}, "asked for twice"),
        ({"schedules": "oli:amplitud=1"}, "did you mean 'amplitude'"),
        ({"schedules": "oli:amplitude"}, "oli:period=40:amplitude=1"),
        ({"schedules": "oli:amplitude=-1"}, "at least 0"),
        ({"schedules": "cosine", "sweep": "amplitude=1"}, "add one of oli"),
        ({"schedules": "cosine", "optimizers": "sgd"}, "wanted adamw"),
        ({"schedules": "cosine", "optimizers": "adamw,moun"}, "did you mean 'muon'"),
    ],
)
def test_words_that_make_no_arm_are_refused(words, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_arms(**words)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("sgdr:period=81", "period of 81 steps is longer than the run of 80"),
        ("oli:period=2.5", "whole number"),
        ("sgdr:t_mult=0", "t_mult 0"),
        ("oli:bump_fraction=1", "bump_fraction 1"),
        ("cosine:final=2", "at most 1"),
    ],
)
def test_parameters_that_do_not_fit_the_run_are_refused(word, complaint):
    with pytest.raises(UsageError, match=complaint):
        resolve(parse_arms(word)[0], RATES)


def test_an_arm_is_a_value():
    assert Arm("oli", (("amplitude", 0.3),)).label == "oli-amplitude0.3"
    assert resolve(Arm("oli"), RATES) == resolve(Arm("oli"), RATES)
