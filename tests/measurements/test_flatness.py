"""Curvature against the whole Hessian of a small model, in float64, row by row; and against what noise costs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

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

    size = gradient.detach().norm()
    with torch.no_grad():
        start = loss_of(wide)
        for weight, g in zip(weights, gradient.detach().split([w.numel() for w in weights]), strict=True):
            weight.add_(0.05 * g.view_as(weight) / size)
        assert found["sam_rise_nats"] == pytest.approx((loss_of(wide) - start).item(), rel=1e-3, abs=1e-6)
