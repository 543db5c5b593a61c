"""Growths of known cause: the identity, the rule, its error rates, and checkpoints that are not numbers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analysis.statistics.intervals import Bounded
from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.explain import explain, read_controls
from pipeline.analysis.trajectory.mechanism.growth_shares import (
    Cause,
    GrowthShares,
    NoShares,
    judge_cause,
    split_growth,
)
from pipeline.analysis.trajectory.mechanism.mechanism_report import PLATEAU, WARM, Mechanism, choose_windows
from pipeline.analysis.trajectory.stages import Phase
from pipeline.base.typed_json import from_json, to_json
from pipeline.runs.shard import Shard
from tests.analysis.trajectory.mechanism_rates import CELLS, measure_causes
from tests.analysis.trajectory.mechanisms import TrueGrowth, simulated_run

SEED = 50_000
FIRST, LAST = Window(100, 2400), Window(5500, 6000)


def split(losses: ControlLosses) -> GrowthShares:
    found = split_growth(losses, FIRST, LAST)
    assert isinstance(found, GrowthShares)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "sensitivity x1.5", "alignment x1.5", "error size x1.5", "sensitivity and alignment x1.5", "all three x1.3",
        "no growth",
    ],
)  # fmt: skip
def test_the_rule_names_the_cause_that_there_is(name: str) -> None:
    rates = measure_causes(*CELLS[name], 10, seed=SEED)
    assert rates.right >= 0.9
    assert rates.covered >= 0.8


def test_a_cause_is_rarely_named_wrongly() -> None:
    halves = TrueGrowth(
        sensitivity=1.5, alignment=1.5, luck=0.2
    )  # the truth lies on the boundary of the rule
    assert measure_causes(halves, Cause.CANNOT_TELL, 200, seed=SEED).wrong <= 0.05


def test_factors_multiply_to_the_damage_and_windows_keep_that() -> None:
    run = simulated_run(TrueGrowth(1.2, 2.0, 1.3), 3)
    product = np.prod(list(run.factors().values()), axis=0)
    np.testing.assert_allclose(product, run.damage, rtol=1e-12)
    found = split(run)
    assert np.prod([each.times.estimate for each in found.factors]) == pytest.approx(
        found.times.estimate, rel=1e-12
    )
    assert sum(each.share.estimate for each in found.factors if each.share) == pytest.approx(1, abs=1e-12)


def test_without_noise_the_shares_are_exact() -> None:
    truth = TrueGrowth(1.1, 2.0, 1.4, luck=0, quiet_luck=0, draw=0, text=0)
    run = simulated_run(truth, 0)
    late = run.step >= 5500
    found = split(run)
    grown = {
        name: np.log(each[late].mean() / each[~late][:20].mean()) for name, each in run.factors().items()
    }
    for each in found.factors:
        assert each.share is not None
        assert each.share.estimate == pytest.approx(grown[each.name] / sum(grown.values()), abs=0.01)


@pytest.mark.parametrize(
    ("lower", "upper", "cause"),
    [
        (0.51, 0.9, Cause.SENSITIVITY),
        (0.49, 0.9, Cause.CANNOT_TELL),
    ],
)
def test_a_share_must_lie_above_one_half(lower: float, upper: float, cause: Cause) -> None:
    shares = [Bounded(0.1, 0, 0.2), Bounded(0.7, lower, upper), Bounded(0.2, 0.1, 0.4)]
    assert judge_cause(Bounded(1, 0.5, 1.5), shares)[0] is cause


def test_another_share_that_reaches_one_half_leaves_it_open() -> None:
    shares = [Bounded(0.1, 0, 0.2), Bounded(0.7, 0.6, 0.9), Bounded(0.2, 0.1, 0.55)]
    assert judge_cause(Bounded(1, 0.5, 1.5), shares)[0] is Cause.CANNOT_TELL
    assert judge_cause(Bounded(0.1, -0.1, 0.3), shares)[0] is Cause.NO_GROWTH


def test_checkpoints_that_are_not_numbers_enter_no_window() -> None:
    run = simulated_run(TrueGrowth(sensitivity=2), 1)
    whole = split(run)
    run.signs_TSB[[3, 57]] = np.nan
    found = split(run)
    assert (found.n_first, found.n_last) == (whole.n_first - 1, whole.n_last - 1)
    assert found.cause is Cause.SENSITIVITY
    assert np.isnan(run.factors()["sensitivity"][[3, 57]]).all()
    run.signs_TSB[55:] = np.nan
    assert isinstance(split_growth(run, FIRST, LAST), NoShares)


def test_repeated_weights_count_once() -> None:
    run = simulated_run(TrueGrowth(sensitivity=2), 1)
    distinct = np.arange(60) % 2 == 0
    found = split(dataclasses.replace(run, distinct=distinct))
    assert found.n_last == 3


def test_damage_that_may_be_nothing_has_no_shares() -> None:
    run = simulated_run(TrueGrowth(sensitivity=2), 1)
    run.damage_TB[:30] -= run.damage_TB[:30].mean()
    found = split_growth(run, FIRST, LAST)
    assert isinstance(found, NoShares)
    assert "cannot be told from 0" in found.reason


def test_damage_below_zero_everywhere_has_no_shares() -> None:
    run = simulated_run(TrueGrowth(sensitivity=2), 1)
    found = split_growth(dataclasses.replace(run, damage_TB=-run.damage_TB), FIRST, LAST)
    assert isinstance(found, NoShares)


def test_windows_are_the_plateau_or_the_first_tenth_after_warm_up() -> None:
    step = np.arange(0, 10_001, 100)
    found = choose_windows(step, warm_up_end=150.0)
    assert found is not None
    assert (found.first, found.last, found.first_is) == (Window(200, 1100), Window(9000, 10_000), WARM)
    phases = (Phase(1, 0, 3000), Phase(2, 3100, 7000), Phase(3, 7100, 10_000))
    plateau = choose_windows(step, phases=phases, warm_up_end=150.0)
    assert plateau is not None
    assert (plateau.first, plateau.first_is) == (Window(3100, 7000), PLATEAU)
    late = choose_windows(step, phases=(Phase(2, 3100, 9500),), warm_up_end=150.0)
    assert late is not None
    assert late.first_is == WARM
    few = choose_windows(step[:10])
    assert few is not None
    assert (few.first, few.last) == (Window(0, 400), Window(500, 900))
    assert choose_windows(step[:9]) is None


def shard_of(run: ControlLosses, index: int, *, controls: bool = True) -> Shard:
    """A shard with the losses of one checkpoint of ``run``."""
    fp32 = run.fp32_TB[index]
    entries = [
        *({"kind": "signs", "amount": 1.0, "seed": seed, "layer": None, "batch_nll_nats": list(fp32 + damage)}
          for seed, damage in enumerate(run.signs_TSB[index])),
        *({"kind": "line", "amount": a, "seed": 0, "layer": None, "batch_nll_nats": list(fp32 + damage[index])}
          for a, damage in run.line_TB.items()),
        {"kind": "line", "amount": 1.0, "seed": 0, "layer": 0, "batch_nll_nats": list(fp32 + 99)},
    ]  # fmt: skip
    tensor = {"n": 4, "mean": 0.0, "std": 1.0, "relative_error": float(np.sqrt(run.error_size[index]))}
    rows = [
        {"variant": "fp32", "nll_nats": fp32.mean(), "batch_nll_nats": list(fp32), "tensors": [], "controls": None},
        {"variant": "int4-g128-asym", "nll_nats": (fp32 + run.damage_TB[index]).mean(),
         "batch_nll_nats": list(fp32 + run.damage_TB[index]), "tensors": [tensor], "controls": entries},
    ]  # fmt: skip
    kept = rows if controls else [{k: v for k, v in row.items() if k != "controls"} for row in rows]
    return Shard(f"step{index}", pa.Table.from_pylist(kept), "", {}, {}, (), {})


def test_losses_are_read_from_shards_and_one_without_controls_is_nan() -> None:
    run = simulated_run(TrueGrowth(sensitivity=2), 1)
    shards = [shard_of(run, index, controls=index != 2) for index in range(6)]
    (found,) = read_controls(shards, run.step[:6], duplicates=["step5"])
    assert found.variant == "int4"
    assert found.usable.tolist() == [True, True, False, True, True, False]
    for name, values in run.factors().items():
        np.testing.assert_allclose(found.factors()[name][[0, 1, 3, 4]], values[[0, 1, 3, 4]], rtol=1e-9)
    np.testing.assert_allclose(found.line_TB[-0.5][3], run.line_TB[-0.5][3], atol=1e-12)


def test_the_report_reads_back_as_it_was_written() -> None:
    run = simulated_run(TrueGrowth(sensitivity=2), 1)
    run.signs_TSB[7] = np.nan
    found = explain([run], headline="int4", labels={"int4": "INT4"}, n_null=19)
    assert found is not None
    assert from_json(Mechanism, json.loads(json.dumps(to_json(found)))) == found
    own = found.by_variant["int4"]
    assert own.not_finite == (800,)
    assert own.shares is not None
    assert own.shares.cause is Cause.SENSITIVITY
    assert own.parabola_share == pytest.approx(1)  # the simulated loss is a parabola
    assert "sensitive" in found.sentence


def test_the_even_part_scatters_less_and_still_shows_the_growth() -> None:
    run = simulated_run(TrueGrowth(sensitivity=3, luck=0.2, memory=0.5), 4)
    found = explain([run], headline="int4", labels={}, n_null=19)
    assert found is not None
    even = found.by_variant["int4"].even
    assert even is not None
    assert even.variance_ratio is not None
    assert even.variance_ratio > 3


def test_two_batches_of_text_show_their_scatter() -> None:
    losses = simulated_run(TrueGrowth(sensitivity=3.0, luck=0.0, quiet_luck=0.0, draw=0.0, n_batches=2), 1)
    found = split_growth(losses, Window(100, 2000), Window(5500, 6000))
    assert isinstance(found, GrowthShares)
    one, other = losses.damage_TB[:20].mean(axis=0)
    assert found.damage_before.upper - found.damage_before.estimate > 4 * abs(
        one - other
    )  # 6.4 by Student's t
