"""Models whose damage has a known cause, measured with their controls."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.growth_shares import Cause, GrowthShares, split_growth
from pipeline.measurements import squared_error
from pipeline.probe import Measurement, Prober
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import VOCAB, tiny_model

SHAPE = TokenShape(batches=16, batch_size=1, seq_len=32)
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (16, 1, 32))
FP32, INT4 = parse_variants(("int4-g16-asym",))
SPEC = ProbeSpec((FP32, INT4), SHAPE, "x", mechanism=(INT4,))


def trained(architecture: str, updates: int = 60, **settings: Any) -> Any:
    """A model that has learnt the evaluation tokens, by heart in 60 updates: noise in its weights can but hurt."""
    model, ids = tiny_model(architecture, **settings), torch.from_numpy(TOKENS).flatten(0, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(updates):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def losses_of(steps: list[int], measured: list[Measurement], *, instead: str = "") -> ControlLosses:
    """Those of INT4 at ``steps``; ``instead``: the kind of control whose first draw takes the place of D."""

    def drawn(found: Measurement, kind: str) -> list[tuple[float, ...]]:
        of_kind = [each for each in found.controls if each.variant == str(INT4) and each.control.kind == kind]
        return [each.batch_nll_nats for each in sorted(of_kind, key=lambda one: one.control.seed)]

    fp32_TB = np.array([found.results[0].batch_nll_nats for found in measured])
    own = [drawn(found, instead)[0] if instead else found.results[1].batch_nll_nats for found in measured]
    return ControlLosses(
        variant="int4",
        step=np.array(steps),
        error_size=np.array(
            [squared_error([t.row() for t in found.results[1].tensors]) for found in measured]
        ),
        fp32_TB=fp32_TB,
        damage_TB=np.array(own) - fp32_TB,
        signs_TSB=np.array([drawn(found, "signs") for found in measured]) - fp32_TB[:, None],
    )


def linear_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """The weights that are quantized: those of the linear layers of the blocks."""
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }


def towards_their_boundaries(model: Any, group: int = 16) -> None:
    """Moves every weight, within its own step, next to the rounding boundary from which rounding goes up the gradient.

    The largest and the smallest weight of a group stay, so that its grid does. The gradient is that of the model as it
    is moved, so it is asked for several times.
    """
    ids = torch.from_numpy(TOKENS).flatten(0, 1)
    for _ in range(4):
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        with torch.no_grad():
            for weight in linear_weights(model).values():
                w_RG = weight.data.view(-1, group)
                up_RG = weight.grad.view(-1, group) > 0
                low = w_RG.amin(dim=1, keepdim=True).clamp(max=0)
                high = w_RG.amax(dim=1, keepdim=True).clamp(min=0)
                step = (high - low) / 15
                place = w_RG / step - torch.round(low / step)
                beside = torch.floor(place) + torch.where(up_RG, 0.5 + 1e-3, 0.5 - 1e-3)
                moved = (beside + torch.round(low / step)) * step
                keep = (w_RG == low) | (w_RG == high) | (moved <= low) | (moved >= high)
                w_RG.copy_(torch.where(keep, w_RG, moved))


def test_weights_beside_boundaries_on_the_gradients_side_are_out_of_line_with_the_grid() -> None:
    model = trained("llama", updates=20)
    found = losses_of([0], [Prober(SPEC, TOKENS).measure_model(model)]).factors()
    towards_their_boundaries(model)
    moved = losses_of([0], [Prober(SPEC, TOKENS).measure_model(model)]).factors()
    assert 0.8 < found["alignment"][0] < 1.3
    assert moved["alignment"][0] > 5
    np.testing.assert_allclose(moved["sensitivity"], found["sensitivity"], rtol=0.2)


def test_gaussian_noise_in_place_of_the_rounding_error_names_sensitivity_alone() -> None:
    """A head whose logits shrink brings back the loss of what was learnt by heart, and moves no quantized weight."""
    steps, measured = list(range(100, 1100, 100)), []
    model, prober = trained("llama"), Prober(SPEC, TOKENS)
    head = model.get_output_embeddings().weight.detach().clone()
    for index, _ in enumerate(steps):
        with torch.no_grad():
            model.get_output_embeddings().weight.copy_(head * ((0.8 if index < 5 else 0.6) - 0.01 * index))
        measured.append(prober.measure_model(model))
    found = split_growth(losses_of(steps, measured, instead="gaussian"), Window(100, 500), Window(600, 1000))
    assert isinstance(found, GrowthShares)
    assert found.cause is Cause.SENSITIVITY
    size, _, alignment = found.factors
    assert size.times.estimate == 1
    assert alignment.share is not None
    assert abs(alignment.share.estimate) < 0.2


def test_weights_that_a_norm_rescales_leave_the_sensitivity_as_it_is() -> None:
    """OLMo-2 normalises queries, keys and what attention and the MLP put out."""
    model = trained("olmo2", updates=20, rms_norm_eps=1e-10)
    prober = Prober(SPEC, TOKENS)
    plain = prober.measure_model(model)
    larger = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in linear_weights(larger).items():
            if not name.endswith("gate_proj"):
                weight.mul_(4.0)
    scaled = prober.measure_model(larger)
    assert abs(plain.results[0].nll_nats - scaled.results[0].nll_nats) < 1e-5
    one, other = (losses_of([0], [each]) for each in (plain, scaled))
    sensitivity = [each.factors()["sensitivity"][0] for each in (one, other)]
    np.testing.assert_allclose(sensitivity[1], sensitivity[0], rtol=0.02)
    absolute = [
        each.noise[0]
        / sum(t.relative_error**2 * t.n * (t.std**2 + t.mean**2) for t in found.results[1].tensors)
        for each, found in ((one, plain), (other, scaled))
    ]
    assert absolute[1] < absolute[0] / 8, "the curvature itself falls with the square of the weights"
