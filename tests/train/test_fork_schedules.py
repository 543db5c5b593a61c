"""Schedules of a fork against torch's own and against values worked by hand; arms from words."""

import warnings
from itertools import groupby

import numpy as np
import pytest
import torch

from pipeline.base.errors import UsageError
from pipeline.train.arms import Arm, check_rates, make_arm_schedule, parse_arms, refuse_twins, resolve
from pipeline.train.fork_spec import arm_identity
from pipeline.train.schedules import ForkRates, schedules
from pipeline.train.schedules.constant import Constant
from pipeline.train.schedules.oli import LockIn
from pipeline.train.schedules.sgdr import WarmRestarts

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


@pytest.mark.parametrize(
    "word",
    [
        *(name for name in schedules.names() if name != "noop"),
        "oli:amplitude=3:period=7",
        "sgdr:period=9",
        "wsd:decay_fraction=1",
    ],
)
@pytest.mark.parametrize("factor", [0.3, 0.55, 2])
def test_a_mean_factor_sets_the_mean_of_a_run_and_leaves_its_shape(word, factor):
    plain, scaled = rates_of(word), rates_of(f"{word}:mean_factor={factor}")
    assert np.mean(scaled[:80]) == pytest.approx(factor * 1e-3, rel=1e-12)
    assert np.divide(scaled[1:80], scaled[0]) == pytest.approx(np.divide(plain[1:80], plain[0]))


def test_a_scaled_schedule_has_the_phases_of_its_own_and_is_scaled_before_the_ramp():
    rates = ForkRates(1e-3, 4e-3, 80, rewarm_steps=10)
    word = "oli:amplitude=3:mean_factor=0.55"
    ramped = make_arm_schedule(resolve(parse_arms(word)[0], rates), rates)
    own = make_arm_schedule(resolve(parse_arms("oli")[0], RATES), RATES)
    assert [ramped(step) for step in (10, 50)] == [rates_of(word)[step] for step in (10, 50)]
    assert ramped(0) == pytest.approx(rates_of(word)[0] / 10)
    assert [ramped.phase(step) for step in range(10, 80)] == [own.phase(step) for step in range(10, 80)]


@pytest.mark.parametrize(
    ("schedule", "names"),
    [
        ("cosine", ["final"]),
        ("pythia", ["final"]),
        ("sgdr", ["eta_max", "final", "period", "t_mult"]),
        ("oli", ["amplitude", "bump_fraction", "cool_factor", "final", "period", "settled_fraction"]),
        ("constant", []),
        ("wsd", ["decay_fraction"]),
        ("noop", []),
    ],
)
def test_an_arm_that_is_not_scaled_is_the_one_of_older_shards(schedule, names):
    identity = arm_identity(resolve(Arm(schedule), RATES), 0)
    assert list(identity) == ["schedule", *names, "optimizer", "seed"]
    if schedule != "noop":
        scaled = arm_identity(resolve(Arm(schedule, (("mean_factor", 0.5),)), RATES), 0)
        assert {name: value for name, value in scaled.items() if name != "mean_factor"} == identity
        assert scaled["mean_factor"] == 0.5


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
    for word in schedules.names():
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
    ("schedules", "sweep", "labels"),
    [
        ("cosine,constant", "mean_factor=0.3,0.6",
         ["cosine", "cosine-mean_factor0.3", "cosine-mean_factor0.6", "constant-mean_factor0.3",
          "constant-mean_factor0.6"]),
        ("cosine,noop", "final=0.1,0.5", ["cosine", "cosine-final0.1", "cosine-final0.5", "noop"]),
        ("cosine,oli,oli:mean_factor=0.55", "amplitude=1,3",
         ["cosine", "oli-amplitude1", "oli-amplitude3", "oli-amplitude1-mean_factor0.55",
          "oli-amplitude3-mean_factor0.55"]),
        ("constant,wsd", "mean_factor=0.5,1",
         ["constant-mean_factor0.5", "constant-mean_factor1", "wsd-mean_factor0.5", "wsd-mean_factor1"]),
    ],
)  # fmt: skip
def test_a_sweep_leaves_a_plain_baseline_in_place(schedules, sweep, labels):
    assert [arm.label for arm in parse_arms(schedules, sweep=sweep)] == labels


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"schedules": "cosine,olli"}, "did you mean 'oli'"),
        ({"schedules": "cosine,cosine"}, "given twice"),
        ({"schedules": "oli:amplitud=1"}, "did you mean 'amplitude'"),
        ({"schedules": "oli:amplitude"}, "oli:period=40:amplitude=1"),
        ({"schedules": "oli:amplitude=-1"}, "at least 0"),
        ({"schedules": "oli:mean_factor=-1"}, "at least 0"),
        ({"schedules": "noop:mean_factor=1"}, "parameter of noop"),
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
        ("constant:mean_factor=0", "mean_factor 0; wanted more than 0"),
        ("sgdr:eta_max=0:final=0:mean_factor=1", "0 throughout"),
    ],
)
def test_parameters_that_do_not_fit_the_run_are_refused(word, complaint):
    with pytest.raises(UsageError, match=complaint):
        check_rates(resolve(parse_arms(word)[0], RATES), RATES)


def test_an_arm_is_a_value():
    assert Arm("oli", (("amplitude", 0.3),)).label == "oli-amplitude0.3"
    assert resolve(Arm("oli"), RATES) == resolve(Arm("oli"), RATES)


def test_arms_that_differ_by_their_names_alone_are_refused():
    arms = [resolve(arm, RATES) for arm in parse_arms("cosine", sweep="final=0,0.1,0.3")]
    with pytest.raises(UsageError, match=r"cosine-final0\.1 and cosine are the same"):
        refuse_twins(arms)
    refuse_twins([arm for arm in arms if arm.label != "cosine-final0.1"])


def test_complaints_name_what_was_given():
    with pytest.raises(UsageError, match="--sweep amplitude=a: wanted parameter=number,number"):
        parse_arms("oli", sweep="amplitude=a")
    with pytest.raises(UsageError, match=r"unknown parameter of noop 'mean_factor': it takes none"):
        parse_arms("noop:mean_factor=1")
    with pytest.raises(UsageError, match="amplitude is given more than once"):
        parse_arms("oli:amplitude=1:amplitude=2")
