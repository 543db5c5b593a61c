"""Critical sharpness against parabolas, against the curvature along the update, and against its own definition."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base.errors import CheckpointError
from pipeline.measurements.critical_sharpness import FIRST, TOLERANCE, critical_rate, of_model
from pipeline.probe import Prober
from pipeline.spec import MEASUREMENTS, ProbeSpec, TokenShape, parse_variants
from pipeline.suites.optimizer_moments import MOMENTS_FILE
from tests.models import VOCAB, save_tiny_model, tiny_model

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (8, 12)))


def loss_of(model: Any) -> torch.Tensor:
    logits = model(input_ids=TOKENS, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())


def moments_of(model: Any) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: {
            "exp_avg": 1e-3 * torch.randn(p.shape, generator=generator),
            "exp_avg_sq": 1e-5 + 1e-6 * torch.rand(p.shape, generator=generator),
            "step": torch.tensor(500.0),
        }
        for name, p in model.named_parameters()
    }


@pytest.mark.parametrize(("slope", "curvature"), [(1.0, 2.0), (3.0, 0.01), (1e-3, 5.0)])
def test_on_a_parabola_it_is_the_curvature_over_the_slope(slope: float, curvature: float) -> None:
    rate = critical_rate(lambda eta: -eta * slope + eta**2 * curvature / 2)
    assert 2 / rate == pytest.approx(curvature / slope, rel=TOLERANCE)


@pytest.mark.parametrize(
    "rise_at",
    [lambda eta: eta, lambda eta: -eta, lambda eta: math.nan],
    ids=["rises at once", "never", "NaN"],
)
def test_a_step_that_lowers_nothing_or_everything_has_none(rise_at: Callable[[float], float]) -> None:
    assert math.isnan(critical_rate(rise_at))


def test_a_loss_that_overflows_has_risen() -> None:
    assert critical_rate(lambda eta: -1.0 if eta < 0.3 else math.nan) == pytest.approx(0.3, rel=TOLERANCE)


def test_the_loss_falls_up_to_the_critical_rate_and_no_further() -> None:
    model = tiny_model("llama", initializer_range=0.3)
    before, moments = {name: p.clone() for name, p in model.named_parameters()}, moments_of(model)
    found = of_model(model, TOKENS, moments)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    rate = float(found["critical_rate"])
    assert rate > FIRST
    assert found["critical_sharpness"] == pytest.approx(2 / rate)
    weights = list(model.parameters())
    start = loss_of(model)
    gradient = torch.autograd.grad(start, weights)
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.95), eps=1e-8)
    for (name, p), g in zip(model.named_parameters(), gradient, strict=True):
        # Moments so old that their correction is 1, one update before the one that is measured.
        optimizer.state[p] = {**moments[name], "step": torch.tensor(1e5)}
        p.grad = g
    torch.nn.utils.clip_grad_norm_(weights, 1.0)

    def rise_at(eta: float) -> float:
        state = copy.deepcopy(optimizer.state_dict())
        optimizer.param_groups[0]["lr"] = eta
        optimizer.step()
        found = loss_of(model).item() - start.item()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(before[name])
        optimizer.load_state_dict(state)
        return found

    assert rise_at(rate * (1 - 2 * TOLERANCE)) < 0 < rise_at(rate * (1 + 2 * TOLERANCE))
    assert all(rise_at(rate * share) < 0 for share in (0.5, 0.1, 0.01))


SPEC = ProbeSpec(
    parse_variants(("int4-g32-asym",)),
    TokenShape(2, 4, 12),
    "x",
    measurements=(*MEASUREMENTS, "critical_sharpness"),
)


def test_a_checkpoint_is_measured_with_what_is_kept_beside_it(tmp_path: Path) -> None:
    folder = save_tiny_model("llama", tmp_path, initializer_range=0.3)
    prober = Prober(SPEC, TOKENS.numpy().reshape(2, 4, 12))
    without = prober.measure(folder)
    assert math.isnan(without.results[0].more["critical_sharpness"])
    assert any("Adam's state is not kept" in note for note in without.notes)
    model = tiny_model("llama", initializer_range=0.3)
    torch.save(moments_of(model), folder / MOMENTS_FILE)
    found = prober.measure(folder)
    assert found.results[0].more == {
        **without.results[0].more, **of_model(model, TOKENS, moments_of(model)),
    }  # fmt: skip
    assert [each.nll_nats for each in found.results] == [each.nll_nats for each in without.results]
    torch.save({"another": {}}, folder / MOMENTS_FILE)
    with pytest.raises(CheckpointError, match="does not fit its weights"):
        prober.measure(folder)
