"""The decision on the interventions against parts that are known."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.evidence.interventions import ARMS, decide, interventions
from tests.test_reference import REFERENCE, assert_close

FOLDER = REFERENCE / "interventions"

COLUMNS = (
    "damage_nats",
    "gptq_damage_nats",
    "error_size",
    "kappa_nats",
    "sensitivity_nats",
    "alignment",
    "norm",
    "fp32_nll_nats",
    "int4_nll_nats",
)


def trainings(rate: float, norm: float, scatter: float = 0.02, seeds: int = 4, fall: float = 0.8) -> dict:
    """Seeds whose damage a falling rate multiplies by ``rate`` and ``decay``'s norms by ``norm``."""
    random = np.random.default_rng(3)
    factors = {"decay": rate * norm, "decay-held": rate, "constant-shrunk": norm, "sam": 0.5, "muon": 1.0}
    found = {}
    for seed in range(seeds):
        arms = {}
        for arm in ARMS:
            times = factors.get(arm, 1.0) * math.exp(scatter * random.standard_normal())
            arms[arm] = dict.fromkeys(COLUMNS, 1.0) | {
                "damage_nats": 0.1 * times,
                "sensitivity_nats": 5 * times,
            }
            arms[arm]["norm"] = 50 * (fall if arm in ("decay", "constant-shrunk") else 1)
        found[f"seed{seed}"] = arms
    return found


@pytest.mark.parametrize(
    ("rate", "norm", "cause"),
    [(1.4, 1.0, "rate"), (1.0, 1.4, "norm"), (1.0, 1.0, "cannot tell"), (1.2, 1.2, "cannot tell")],
)
def test_the_cause_that_was_put_in_is_named(rate: float, norm: float, cause: str):
    found = decide(trainings(rate, norm))
    assert found["cause"] == cause
    parts = found["two_by_two"]["damage_nats"]
    product = parts["times_rate"]["estimate"] * parts["times_norm"]["estimate"]
    assert product == pytest.approx(parts["times"]["estimate"])
    assert parts["times_rate"]["lower"] < rate < parts["times_rate"]["upper"]
    assert parts["times_norm"]["lower"] < norm < parts["times_norm"]["upper"]


def test_norms_that_did_not_fall_test_nothing():
    assert decide(trainings(1.4, 1.0, fall=0.97))["cause"] == "not tested"


def test_two_seeds_are_told_one_by_one_and_not_judged():
    found = decide(trainings(1.4, 1.0, seeds=2, scatter=0))
    assert found["cause"] == found["two_by_two"]["damage_nats"]["cause"] == "not judged"
    for ratios in found["by_seed"].values():
        assert ratios["damage_nats"]["decay-held"] == pytest.approx(1.4)
        assert ratios["norm"]["constant-shrunk"] == pytest.approx(0.8)
    assert {each["verdict"] for each in found["flattening"].values()} == {"not judged"}


def test_a_seed_that_lacks_an_arm_of_the_square_does_not_count():
    seeds = trainings(1.4, 1.0, seeds=3)
    del seeds["seed1"]["decay-held"]
    assert decide(seeds)["seeds"] == ["seed0", "seed2"]


def test_an_optimizer_is_judged_by_its_sensitivity_alone():
    found = decide(trainings(1.4, 1.0))["flattening"]
    assert found["sam"]["verdict"] == "lowers"
    assert found["muon"]["verdict"] == found["average"]["verdict"] == "cannot tell"
    assert found["sam"]["times_sensitivity"]["lower"] < 0.5 < found["sam"]["times_sensitivity"]["upper"]


def test_the_losses_stand_beside_the_verdict():
    seeds = trainings(1.4, 1.0)
    for number, arms in enumerate(seeds.values()):
        arms["average"]["int4_nll_nats"] = 0.8 + 0.01 * number
    found = decide(seeds)["losses"]["average"]
    assert found["int4_nats"]["estimate"] == pytest.approx(-0.185)
    assert found["int4_nats"]["lower"] < -0.185 < found["int4_nats"]["upper"] < 0
    assert found["fp32_nats"]["estimate"] == pytest.approx(0)


def test_an_arm_of_fewer_than_three_seeds_is_not_judged():
    seeds = trainings(1.4, 1.0)
    for name in ("seed2", "seed3"):
        del seeds[name]["muon"]
    found = decide(seeds)["flattening"]
    assert found["muon"]["verdict"] == "not judged"
    assert found["sam"]["verdict"] == "lowers"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audits of the seeds with their shards."""
    folder: Path = tmp_path_factory.mktemp("interventions")
    with tarfile.open(FOLDER / "shards.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for plan in FOLDER.glob("*/run.json"):
        shutil.copyfile(plan, folder / plan.parent.name / "run.json")
    return folder


def test_the_committed_decision_is_that_of_the_committed_shards(unpacked: Path):
    kept = json.loads((FOLDER / "decision.json").read_text())
    assert_close(interventions(unpacked), kept, "decision.json")


def test_the_damage_of_a_window_is_the_mean_of_its_shards(unpacked: Path):
    kept = json.loads((FOLDER / "decision.json").read_text())["windows"]["seed0"]
    for number, arm in enumerate(ARMS, start=1):
        shards = sorted((unpacked / "seed0" / "shards" / "audit").glob(f"stage{number}-*.arrow"))
        damages = []
        for shard in shards:
            with pa.ipc.open_file(shard) as file:
                rows = {row["variant"]: row for row in file.read_all().to_pylist()}
            damages.append(rows["int4-g128-asym"]["nll_nats"] - rows["fp32"]["nll_nats"])
        if arm in kept:
            assert len(damages) == kept[arm]["checkpoints"] == 6
            assert kept[arm]["damage_nats"] == pytest.approx(sum(damages) / 6)
