"""The decisions on convergence, size and repetition against effects that are known."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.evidence import convergence, repetition, sizes
from tests.evidence.losses import FP32, GPTQ, INT4, Losses, read_losses
from tests.evidence.second_seed import share_left
from tests.test_reference import REFERENCE, assert_close


def suite(steps: np.ndarray, damage: np.ndarray, fp32: np.ndarray, seed: int = 0) -> Losses:
    """A suite with that damage under both variants; noise of 0.002 nats per batch."""
    random = np.random.default_rng(seed)
    level = fp32[:, None] + 0.3 * random.standard_normal(32)[None]
    noise = 0.002 * random.standard_normal((2, len(steps), 32))
    return Losses(
        steps,
        {FP32: level, INT4: level + damage[:, None] + noise[0], GPTQ: level + damage[:, None] + noise[1]},
    )


def both_ways(growth: float, effect: float, falls: float = 0.0, seed: int = 0) -> dict:
    """One seed whose damage grows by ``growth`` after convergence and which the decay multiplies by ``effect``."""
    steps = np.arange(0, 40_001, 250)
    after = np.clip((steps - 14_000) / 24_000, 0, 1)
    fp32 = 2 + 2 * np.exp(-steps / 1500) - falls * steps / 40_000
    fp32 = fp32 + 0.002 * np.random.default_rng(seed + 50).standard_normal(len(steps))
    scatter = math.exp(0.03 * np.random.default_rng(seed).standard_normal())
    damage = 0.1 * scatter * growth**after
    late = steps[steps > 32_000]
    decayed = damage[steps > 32_000] * effect ** np.clip((late - 32_000) / 6000, 0, 1)
    return convergence.numbers_of(
        suite(steps, damage, fp32, seed), suite(late, decayed, fp32[steps > 32_000], seed)
    )


@pytest.mark.parametrize(
    ("growth", "effect", "verdict"),
    [
        (1.0, 1.5, "it follows the decay"),
        (2.0, 1.0, "it follows convergence"),
        (2.0, 1.5, "both"),
        (1.0, 1.0, "cannot tell"),
    ],
)
def test_what_the_damage_was_made_to_follow_is_named(growth: float, effect: float, verdict: str):
    seeds = {f"seed{seed}": both_ways(growth, effect, seed=seed) for seed in range(4)}
    found = convergence.decide(seeds)
    assert found["converged"] == list(seeds)
    assert found["verdict"] == verdict
    ratio = found["readings"]["int4"]["decay_over_constant"]["estimate"]
    assert ratio == pytest.approx(effect, rel=0.05)


def test_seeds_whose_full_precision_still_falls_do_not_count():
    seeds = {f"seed{seed}": both_ways(1.0, 1.5, falls=0.2, seed=seed) for seed in range(3)}
    found = convergence.decide(seeds)
    assert found["converged"] == []
    assert found["verdict"] == "not tested"


def trainings(slope: float, effect: float = 0.35, scatter: float = 0.03) -> list[dict]:
    random = np.random.default_rng(1)
    found = []
    for size, parameters in sizes.PARAMETERS.items():
        for seed in range(2):
            value = effect + slope * math.log10(parameters / 24_576) + scatter * random.standard_normal()
            ends = {"estimate": value, "lower": value - 0.1, "upper": value + 0.1}
            each = {"size": size, "seed": seed, "parameters": parameters, "int4": ends, "gptq": ends}
            found.append(each | {"noise_log": None if size == "25m" else value})
    return found


@pytest.mark.parametrize(("slope", "verdict"), [(0.2, "grows"), (-0.15, "shrinks"), (0.0, "cannot tell")])
def test_a_trend_with_size_is_found(slope: float, verdict: str):
    found = sizes.decide(trainings(slope))
    assert found["verdict"] == verdict
    assert found["trend"]["int4"]["slope_log_per_decade"]["estimate"] == pytest.approx(slope, abs=0.05)
    assert found["by_size"]["100k"]["verdict"] == "raises"
    assert [each["verdict"] for each in found["trend_without_one"]] == [verdict] * 8
    assert found["trend"]["noise"]["slope_log_per_decade"]["estimate"] == pytest.approx(slope, abs=0.1)


def test_a_trend_over_two_sizes_is_not_judged():
    few = [each for each in trainings(0.2) if each["size"] in ("100k", "25m")]
    assert sizes.decide(few)["verdict"] == "not judged"


def test_the_effect_of_one_training_has_its_interval():
    steps = np.arange(6_900, 7_151, 50)
    flat = suite(steps, np.full(len(steps), 0.1), np.full(len(steps), 2.0))
    late = suite(steps, np.full(len(steps), 0.14), np.full(len(steps), 1.9), seed=1)
    found = sizes.effect(late, flat, INT4, np.random.default_rng(0))
    assert found["lower"] < math.log(1.4) < found["upper"]
    assert found["upper"] - found["lower"] < 0.02


def arms(level: float, decay: float, changed: float, seed: int) -> dict:
    random = np.random.default_rng(seed)

    def at(value: float) -> dict:
        value *= math.exp(0.03 * random.standard_normal())
        return {"int4": value, "gptq": value, "fp32": 2.0}

    once = {"constant": at(0.1), "wsd": at(0.1 * decay)}
    repeated = {"constant": at(0.1 * level / changed), "wsd": at(0.1 * decay * level)}
    return {"once": once, "repeated": repeated}


@pytest.mark.parametrize(
    ("level", "decay", "changed", "verdicts"),
    [
        (1.5, 1.4, 1.0, ("raises the damage", "raises the damage without repetition", "cannot tell")),
        (0.6, 1.0, 1.0, ("lowers the damage", "cannot tell", "cannot tell")),
        (1.0, 1.4, 1.5, ("makes no difference that matters", "raises", "repetition changes")),
    ],
)
def test_what_repetition_was_made_to_do_is_found(level: float, decay: float, changed: float, verdicts: tuple):
    found = repetition.decide({f"seed{seed}": arms(level, decay, changed, seed) for seed in range(4)})
    for name, said in zip(("level", "decay", "difference"), verdicts, strict=True):
        assert found["verdicts"][name].startswith(said)


def test_two_seeds_of_repetition_are_not_judged():
    found = repetition.decide({f"seed{seed}": arms(1.5, 1.4, 1.0, seed) for seed in range(2)})
    assert set(found["verdicts"].values()) == {"not judged"}


def test_a_contrast_counts_the_seeds_that_have_its_suites():
    seeds = {f"seed{seed}": arms(1.5, 1.4, 1.0, seed) for seed in range(3)}
    del seeds["seed1"]["once"]["constant"]
    found = repetition.decide(seeds)
    assert found["verdicts"] == {
        "level": "raises the damage",
        "decay": "not judged",
        "difference": "not judged",
    }
    contrasts = found["readings"]["int4"]["contrasts"]
    assert [contrasts[name]["seeds"] for name in ("level", "once", "repeated", "difference")] == [3, 2, 3, 2]
    assert contrasts["once"]["by_seed"]["seed0"] == pytest.approx(1.4, rel=0.15)


def test_the_share_that_a_method_leaves_is_that_of_the_gaps():
    steps = np.arange(27_600, 28_601, 200)
    random = np.random.default_rng(4)
    level = np.full((len(steps), 32), 2.0) + 0.3 * random.standard_normal(32)
    noise = 0.001 * random.standard_normal((2, len(steps), 32))
    left = math.log(1 + 0.7 * math.expm1(0.1))
    losses = Losses(steps, {FP32: level, INT4: level + 0.1 + noise[0], GPTQ: level + left + noise[1]})
    found = share_left(losses, GPTQ, np.random.default_rng(0))
    assert found["lower"] < 0.7 < found["upper"]
    assert found["upper"] - found["lower"] < 0.02


def test_the_numbers_of_a_seed_are_what_its_shards_say(tmp_path: Path):
    with tarfile.open(REFERENCE / "convergence" / "shards.tar.xz") as packed:
        names = [each for each in packed if "seed1/" in each.name]
        packed.extractall(tmp_path, names, filter="data")
    made = convergence.numbers_of(
        read_losses(tmp_path / "constant-seed1"), read_losses(tmp_path / "wsd-seed1")
    )
    kept = json.loads((REFERENCE / "convergence" / "decision.json").read_text())
    assert_close(json.loads(json.dumps(made)), kept["by_seed"]["seed1"], "seed1")
    early, late = made["int4"]["constant"], made["int4"]["wsd"]
    assert made["int4"]["e"] == pytest.approx(math.log(late / early))
