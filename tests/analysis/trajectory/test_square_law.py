"""The square law on shards whose kappa is known."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analysis.trajectory.square_law import square_law
from pipeline.measurements import squared_error
from pipeline.runs.shard import Shard

ERRORS = {
    "int8-channel-sym": 0.0074,
    "int5-g128-asym": 0.05,
    "int4-g128-asym": 0.104,
    "int3-g128-asym": 0.22,
    "int2-g128-asym": 0.52,
}
N_BATCHES = 32


def shard(index: int, damages: dict[str, np.ndarray], errors: dict[str, float] | None = None) -> Shard:
    """A checkpoint whose variants lose ``damages`` more than fp32 by batch, and have the relative weight ``errors``."""
    fp32 = 2.0 + np.linspace(-0.3, 0.3, len(next(iter(damages.values()), np.zeros(N_BATCHES))))
    rows = [{"variant": "fp32", "batch_nll_nats": fp32.tolist(), "tensors": [tensor(None)]}]
    for variant, damage in damages.items():
        error = (errors or ERRORS)[variant]
        rows.append(
            {"variant": variant, "batch_nll_nats": (fp32 + damage).tolist(), "tensors": [tensor(error)]}
        )
    return Shard(f"step{index:09d}", pa.Table.from_pylist(rows), "", {}, {}, (), {})


def tensor(error: float | None) -> dict[str, float | None]:
    return {"n": 4096, "mean": 0.001, "std": 0.02, "relative_error": error}


def exact(kappa: float, variants: tuple[str, ...] = tuple(ERRORS), **factors: float) -> dict[str, np.ndarray]:
    """Damages of ``kappa`` on every batch, those of a variant in ``factors`` (by bits) times its factor."""
    return {
        name: np.full(N_BATCHES, kappa * ERRORS[name] ** 2 * factors.get(name[:4], 1.0)) for name in variants
    }


def test_a_law_without_scatter_is_found_as_it_is():
    kappas = np.linspace(5, 10, 20)
    found = square_law([shard(i, exact(kappa)) for i, kappa in enumerate(kappas)])
    law = found.law
    assert [each.kappa for each in found.by_key.values()] == pytest.approx(kappas.tolist())
    assert law.end.kappa == pytest.approx(kappas[-5:].mean())
    assert law.end.n_variants == 4, "two bits are in no fit"
    assert law.end.scatter == pytest.approx(0, abs=1e-9)
    assert law.growth.ratio == pytest.approx(kappas[-5:].mean() / kappas[7:12].mean())
    assert law.int8.predicted_nats == pytest.approx(law.int8.measured_nats)
    assert law.int8.agrees
    assert "the size that the square law predicts" in law.sentence


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_an_int8_that_costs_five_times_more_or_less_than_predicted_from_int4_alone_is_said_to(factor):
    variants = ("int8-channel-sym", "int4-g128-asym")
    law = square_law([shard(i, exact(7.0, variants, int8=factor)) for i in range(12)]).law
    assert law.int8.predicted_nats == pytest.approx(7.0 * ERRORS["int8-channel-sym"] ** 2)
    assert law.int8.measured_nats == pytest.approx(factor * law.int8.predicted_nats)
    assert not law.int8.agrees
    assert "not the size that" in law.sentence


def test_an_int8_that_the_text_cannot_tell_from_nothing_contradicts_no_law():
    rng = np.random.default_rng(0)
    variants = ("int8-channel-sym", "int4-g128-asym")
    shards = []
    for index in range(12):
        damages = exact(7.0, variants, int8=0.0)
        damages["int8-channel-sym"] = rng.normal(0, 0.005, N_BATCHES)
        shards.append(shard(index, damages))
    law = square_law(shards).law
    assert law.int8.lower < 0 < law.int8.upper
    assert law.int8.agrees


def test_the_interval_covers_kappa_over_texts_whose_neighbouring_batches_are_alike():
    rng = np.random.default_rng(3)
    variants, covered = ("int8-channel-sym", "int4-g128-asym", "int3-g128-asym"), 0
    for _ in range(300):
        noise = rng.normal(size=N_BATCHES + 1)
        text = 1 + 0.25 * (noise[1:] + 0.35 * noise[:-1]) / math.hypot(1, 0.35)
        damages = {name: 7.0 * ERRORS[name] ** 2 * text for name in variants}
        damages["int8-channel-sym"] = damages["int8-channel-sym"] + rng.normal(0, 0.002, N_BATCHES)
        (found,) = square_law([shard(0, damages)]).by_key.values()
        covered += found.lower <= 7.0 <= found.upper
    assert 0.90 <= covered / 300 <= 0.99


def test_the_scatter_of_grids_about_the_law_is_found():
    rng = np.random.default_rng(1)
    errors = {
        f"int{bits}-g{size}-sym": 0.8 / 2**bits * rng.uniform(0.9, 1.1)
        for bits in (4, 5, 6)
        for size in (16, 32, 64, 128)
    }
    factors = {name: math.exp(rng.normal(0, 0.2)) for name in errors}
    damages = {name: np.full(N_BATCHES, 6.0 * errors[name] ** 2 * factors[name]) for name in errors}
    law = square_law([shard(i, damages, errors) for i in range(3)]).law
    assert law.end.scatter == pytest.approx(np.std(np.log(list(factors.values())), ddof=1))
    assert law.half_way is law.growth is law.int8 is None
    assert 5.0 < law.end.kappa < 7.2


def test_what_diverged_or_was_not_quantized_is_in_no_fit_and_a_duplicate_in_no_window():
    broken = exact(7.0)
    broken["int3-g128-asym"] = np.full(N_BATCHES, math.nan)
    nothing = {name: np.full(N_BATCHES, math.nan) for name in ERRORS}
    shards = [shard(0, nothing), *(shard(i, exact(7.0)) for i in range(1, 20)), shard(20, broken)]
    again = shard(21, exact(99.0))
    found = square_law([*shards, again], duplicates=[again.key])
    assert list(found.by_key) == [each.key for each in (*shards[1:], again)]
    assert found.by_key[shards[-1].key].kappa == pytest.approx(7.0)
    assert found.law.end.kappa == pytest.approx(7.0)
    columns = found.columns([each.key for each in shards])
    assert [column.name for column in columns] == ["kappa", "kappa_lower", "kappa_upper", "kappa_scatter"]
    assert columns[0][0] is None
    assert square_law([shard(0, {})]) is None
    assert square_law([shard(0, exact(7.0, ("int2-g128-asym",)))]) is None


def test_one_batch_has_a_kappa_and_no_interval():
    damages = {name: damage[:1] for name, damage in exact(7.0).items()}
    (found,) = square_law([shard(0, damages)]).by_key.values()
    assert found.kappa == pytest.approx(7.0)
    assert (found.lower, found.upper) == (None, None)


def test_the_relative_error_of_a_variant_is_that_of_all_its_weights_together():
    rng = np.random.default_rng(5)
    weights = [rng.normal(0.01 * k, 0.02 * (k + 1), 500 * (k + 1)) for k in range(3)]
    moved = [weight + rng.normal(0, 0.003, len(weight)) for weight in weights]
    tensors = [
        {
            "n": len(w),
            "mean": w.mean(),
            "std": w.std(),
            "relative_error": np.linalg.norm(m - w) / np.linalg.norm(w),
        }
        for w, m in zip(weights, moved, strict=True)
    ]
    flat, off = np.concatenate(weights), np.concatenate(moved)
    assert squared_error(tensors) == pytest.approx((np.linalg.norm(off - flat) / np.linalg.norm(flat)) ** 2)
    assert math.isnan(squared_error([*tensors, {**tensors[0], "relative_error": None}]))
