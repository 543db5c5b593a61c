"""Curvature against the whole Hessian of a small model, in float64, row by row; and against what noise costs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.base.errors import CheckpointError
from pipeline.measurements.flatness import block_matrices, of_model
from tests.models import VOCAB, tiny_model

SMALL = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (8, 12)))


def loss_of(model: torch.nn.Module) -> torch.Tensor:
    logits = model(input_ids=TOKENS, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


def test_trace_and_top_eigenvalue_are_those_of_the_hessian() -> None:
    model = tiny_model("gpt_neox", initializer_range=0.5, attn_implementation="eager", **SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = of_model(model, TOKENS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    wide = copy.deepcopy(model).double()
    names = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    weights = [
        p for name, p in wide.named_parameters() if name.split(".")[-2:] in [[n, "weight"] for n in names]
    ]
    assert len(weights) == len(block_matrices(model)) == 4
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss_of(wide), weights, create_graph=True)]
    )
    rows = [torch.autograd.grad(each, weights, retain_graph=True) for each in gradient]
    whole = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    eigenvalues = torch.linalg.eigvalsh((whole + whole.T) / 2)
    assert found["hessian_top"] == pytest.approx(eigenvalues[-1].item(), rel=0.02)
    assert (
        abs(float(found["hessian_trace"]) - whole.trace().item())
        < 4 * float(found["hessian_trace_se"]) + 1e-9
    )

    sizes = [w.numel() for w in weights]
    traces = torch.stack([part.sum() for part in whole.diagonal().split(sizes)])
    relative = sum(w.square().mean() * trace for w, trace in zip(weights, traces, strict=True)).item()
    assert abs(found["hessian_relative_trace"] - relative) < 4 * found["hessian_relative_trace_se"] + 1e-9
    assert found["hessian_relative_trace_se"] < abs(relative)
    assert found["hessian_matrices"].split() == [
        name.removesuffix(".weight")
        for name, _ in wide.named_parameters()
        if name.split(".")[-2:] in [[n, "weight"] for n in names]
    ]
    draws = np.reshape(found["hessian_draws"], (-1, 4))
    apart = np.abs(draws.mean(axis=0) - traces.numpy())
    assert (apart < 4 * draws.std(axis=0, ddof=1) / len(draws) ** 0.5 + 1e-9).all()

    size = gradient.detach().norm()
    with torch.no_grad():
        start = loss_of(wide)
        for weight, g in zip(weights, gradient.detach().split(sizes), strict=True):
            weight.add_(0.05 * g.view_as(weight) / size)
        assert found["sam_rise_nats"] == pytest.approx((loss_of(wide) - start).item(), rel=1e-3, abs=1e-6)


class OnceOnly(torch.autograd.Function):
    """The identity, whose gradient cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


def test_a_model_without_second_derivatives_is_refused_by_name() -> None:
    model = tiny_model("gpt_neox", attn_implementation="eager", **SMALL)
    model.gpt_neox.final_layer_norm.register_forward_hook(lambda module, args, out: OnceOnly.apply(out))
    with pytest.raises(CheckpointError, match=r"flatness.*second derivatives.*leave it out"):
        of_model(model, TOKENS)


def test_fewer_sequences_go_at_a_time_where_memory_is_short() -> None:
    model = tiny_model("gpt_neox", initializer_range=0.5, attn_implementation="eager", **SMALL)
    wanted, sizes = of_model(model, TOKENS), []

    def full(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(full, with_kwargs=True)
    found = of_model(model, TOKENS)
    assert sizes[-1] == 2
    for name in ("hessian_trace", "hessian_top", "sam_rise_nats"):
        assert found[name] == pytest.approx(float(wanted[name]), rel=1e-4)


def test_a_flat_loss_has_no_curvature() -> None:
    """All weights zero: the gradient has no direction, and nothing is divided by its length."""
    model = tiny_model("gpt_neox", attn_implementation="eager", **SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = of_model(model, TOKENS)
    assert float(found["hessian_trace"]) == found["hessian_top"] == found["sam_rise_nats"] == 0.0
