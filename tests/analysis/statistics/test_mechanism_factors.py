"""Factors and their errors, from losses that are known: a parabola, and simulated text and draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipeline.analysis.statistics.mechanism_factors import (
    ControlledLoss,
    additivity,
    factor_columns,
    noise_columns,
)
from pipeline.quantize.controls import ControlSettings
from pipeline.quantize.variant import Variant, parse_variants

SETTINGS = ControlSettings()
FP32, INT4 = parse_variants(("int4",))


def row_of(variant: Variant, loss: Any, base_B: np.ndarray, damage_B: np.ndarray) -> dict[str, Any]:
    """A shard's row; ``loss``: the damage in each batch of a control."""
    own = base_B + damage_B
    entries = [{**vars(each), "batch_nll_nats": list(base_B + loss(each))} for each in SETTINGS.of(variant)]
    return {"nll_nats": own.mean(), "batch_nll_nats": list(own), "controls": entries}


def test_all_factors_of_a_quadratic_loss_are_exact() -> None:
    """L(w + p) = g p + p H p / 2 on every batch: what each control costs is known to the last digit."""
    rng = np.random.default_rng(0)
    weight, gradient, error = rng.normal(size=(3, 24))
    root = rng.normal(size=(24, 24))
    hessian = root @ root.T
    signs = rng.choice([-1.0, 1.0], (SETTINGS.sign_seeds, 24))

    def loss(perturbation: np.ndarray) -> float:
        return float(gradient @ perturbation + perturbation @ hessian @ perturbation / 2)

    def of_control(control: Any) -> float:
        if control.kind == "line":
            return loss(control.amount * error)
        if control.kind == "signs":
            return loss(signs[control.seed] * error)
        return loss(rng.permutation(error) if control.kind == "permuted" else rng.normal(size=24))

    base_B, nothing = rng.uniform(3, 4, 6), np.zeros(6)
    fp32 = row_of(FP32, lambda _: nothing, base_B, nothing)
    found = ControlledLoss.of(row_of(INT4, of_control, base_B, nothing + loss(error)), fp32)
    assert found is not None
    size = float(error @ error / (weight @ weight))
    columns = factor_columns(found, size)
    noise = np.mean([loss(each * error) for each in signs])
    expected = {
        "error_size": size,
        "sensitivity": noise / size,
        "alignment": loss(error) / noise,
        "slope": gradient @ error,
        "curvature": error @ hessian @ error,
        "even_damage": error @ hessian @ error / 2,
        "kappa": loss(error) / size,
    }
    for name, value in expected.items():
        assert columns[name] == pytest.approx(value, rel=1e-9), name
    for name in ("damage_se", "slope_se", "curvature_se", "even_damage_se", "kappa_se"):
        assert columns[name] == pytest.approx(0, abs=1e-9)  # the batches do not differ
    scatter = np.std([loss(each * error) for each in signs], ddof=1) / len(signs) ** 0.5
    assert columns["sensitivity_se"] == pytest.approx(scatter / size, rel=1e-9)


def simulated(
    rng: np.random.Generator, batches: int
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Columns of losses with text that all losses share, draws, and what is left of both."""
    text_B = 0.1 * rng.normal(size=batches)
    shift = {control: 0.05 * rng.normal() for variant in (FP32, INT4) for control in SETTINGS.of(variant)}

    def loss(control: Any) -> np.ndarray:
        draw = 0.0 if control.kind == "line" else shift[control]
        return 0.5 + text_B + draw + 0.05 * rng.normal(size=batches)

    base_B = rng.uniform(3, 4, batches)
    fp32 = row_of(FP32, loss, base_B, np.zeros(batches))
    row = row_of(INT4, loss, base_B, 1.0 + 2 * text_B + 0.05 * rng.normal(size=batches))
    found, noise = ControlledLoss.of(row, fp32), ControlledLoss.of(fp32, fp32)
    assert found is not None
    assert noise is not None
    return factor_columns(found, 0.01), noise_columns(noise)


def test_errors_are_those_of_repeated_measurements() -> None:
    rng = np.random.default_rng(1)
    columns = [own | noise for own, noise in (simulated(rng, 16) for _ in range(400))]
    for name in ("damage", "sensitivity", "alignment", "even_damage", "permuted_ratio", "noise_2pct_nats"):
        values = np.array([each[name] for each in columns])
        told = np.array([each[f"{name}_se"] for each in columns])
        assert np.sqrt((told**2).mean()) == pytest.approx(values.std(ddof=1), rel=0.15), name


def test_a_loss_that_is_not_finite_leaves_no_number() -> None:
    base_B, nothing = np.linspace(3, 4, 4), np.zeros(4)
    fp32 = row_of(FP32, lambda _: nothing, base_B, nothing)
    row = row_of(
        INT4,
        lambda c: nothing + (math.nan if c.kind == "signs" and c.seed == 3 else 1.0),
        base_B,
        nothing + 1,
    )
    found = ControlledLoss.of(row, fp32)
    assert found is not None
    columns = factor_columns(found, 0.01)
    for name in ("sensitivity", "alignment", "sensitivity_se", "alignment_se", "permuted_ratio"):
        value = columns[name]
        assert value is not None
        assert math.isnan(value), name
    assert columns["curvature"] == pytest.approx(8.0)


def test_layers_whose_damages_add_up() -> None:
    def alone(damage: float) -> ControlledLoss:
        return ControlledLoss(damage, np.full(4, damage), {}, {})

    found = additivity([alone(0.1), alone(0.2)], alone(0.6))
    assert found["additivity"] == pytest.approx(0.5)
    assert found["additivity_se"] == pytest.approx(0.0)


def test_a_row_without_controls_has_no_factors() -> None:
    assert ControlledLoss.of({"controls": None, "nll_nats": 3.0, "batch_nll_nats": [3.0]}, {}) is None
