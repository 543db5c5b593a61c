"""Curvature of the loss over the quantized weights: trace and top eigenvalue of the Hessian, and the rise of the loss
along its gradient.

On the first sequences of the evaluation text, in float32. The trace is Hutchinson's estimate, the mean of v'Hv over
vectors v of random signs; the top eigenvalue comes from 20 steps of Lanczos; the rise is that of
sharpness-aware minimisation, L(w + rho g / |g|) - L(w) with rho = 0.05 (Foret et al. 2021, arXiv 2010.01412). The
vectors are the same for every checkpoint. Normal noise of standard deviation s in every weight costs s^2 trace / 2 on
average, as far as a parabola goes.

A Hessian-vector product is the gradient of g'v. The fused kernels of attention have no second derivative, so attention
is computed by plain products. Own code, because curvlinops 3.0.1 brings five packages and hessian-eigenthings is a
pre-release (1.0.0a5), for what is one call of autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.measurements.measurement import CheckpointMeasurement, Column, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor, nn

SEQUENCES, AT_ONCE = 16, 4
DRAWS, ITERATIONS, RHO = 16, 20, 0.05

Vector = tuple["Tensor", ...]


def of_model(model: Any, tokens_NT: Tensor) -> Values:
    """NaN where a loss or a derivative is not finite."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    weights = block_matrices(model)
    parts = tokens_NT[:SEQUENCES].split(AT_ONCE)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Vector:
        return tuple(
            torch.randint(0, 2, each.shape, generator=generator).to(each.device, torch.float32) * 2 - 1
            for each in weights
        )

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _differentiable(weights):
        loss, gradient = _gradient(model, parts, weights)
        traces = []
        for _ in range(DRAWS):
            v = draw()
            traces.append(_dot(v, _product(model, parts, weights, v)))
        top = _top_eigenvalue(lambda v: _product(model, parts, weights, v), draw())
        size = _dot(gradient, gradient) ** 0.5
        with torch.no_grad():
            _add(weights, gradient, RHO / size)
            rise = sum(float(_loss(model, part, tokens_NT[:SEQUENCES])) for part in parts) - loss
            _add(weights, gradient, -RHO / size)
    found = torch.tensor(traces, dtype=torch.float64)
    return {
        "hessian_trace": found.mean(),
        "hessian_trace_se": found.std() / DRAWS**0.5,
        "hessian_top": top,
        "sam_rise_nats": rise,
    }


def block_matrices(model: nn.Module) -> list[Tensor]:
    """The matrices of the largest list of modules: the weights that are quantized, for a model whose blocks hold others
    is refused (``models.linear_layers``).
    """
    from torch import nn

    lists = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    largest = max(lists, key=lambda each: sum(p.numel() for p in each.parameters()))
    return [parameter for parameter in largest.parameters() if parameter.dim() > 1]


@contextmanager
def _differentiable(weights: Sequence[Tensor]) -> Iterator[None]:
    """Gradients of ``weights`` can be taken; they are afterwards as they were, bit for bit."""
    before, kept = [each.requires_grad for each in weights], [each.detach().clone() for each in weights]
    for each in weights:
        each.requires_grad_(True)
    try:
        yield
    finally:
        for each, needed, value in zip(weights, before, kept, strict=True):
            each.requires_grad_(needed)
            each.data.copy_(value)


def _loss(model: Any, part_NT: Tensor, all_NT: Tensor) -> Tensor:
    """What ``part_NT`` adds to the mean loss over the predictions in ``all_NT``."""
    from torch.nn import functional

    if hasattr(model, "get_output_embeddings"):
        out = model(input_ids=part_NT, use_cache=False, return_dict=True)
    else:  # no model of transformers
        out = model(part_NT)
    logits = (out.logits if hasattr(out, "logits") else out)[:, :-1].flatten(0, 1).float()
    total = functional.cross_entropy(logits, part_NT[:, 1:].flatten(), reduction="sum")
    return total / (all_NT.shape[0] * (all_NT.shape[1] - 1))


def _gradient(model: Any, parts: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[float, Vector]:
    import torch

    whole, total, found = torch.cat(list(parts)), 0.0, [torch.zeros_like(each) for each in weights]
    for part in parts:
        loss = _loss(model, part, whole)
        total += float(loss.detach())
        for added, each in zip(found, torch.autograd.grad(loss, list(weights)), strict=True):
            added.add_(each)
    return total, tuple(found)


def _product(model: Any, parts: Sequence[Tensor], weights: Sequence[Tensor], v: Vector) -> Vector:
    """H v."""
    import torch

    whole, found = torch.cat(list(parts)), [torch.zeros_like(each) for each in weights]
    for part in parts:
        first = torch.autograd.grad(_loss(model, part, whole), list(weights), create_graph=True)
        along = torch.stack([(g * each).sum() for g, each in zip(first, v, strict=True)]).sum()
        for added, each in zip(found, torch.autograd.grad(along, list(weights)), strict=True):
            added.add_(each)
    return tuple(found)


def _top_eigenvalue(product: Callable[[Vector], Vector], v: Vector) -> float:
    """The largest eigenvalue, by Lanczos' method from ``v``, every vector made orthogonal to all before (Golub and Van
    Loan, Matrix Computations, section 10.3).
    """
    import torch

    basis: list[Vector] = []
    diagonal: list[float] = []
    beside: list[float] = []
    norm = _dot(v, v) ** 0.5
    for _ in range(ITERATIONS):
        basis.append(tuple(each / norm for each in v))
        v = product(basis[-1])
        diagonal.append(_dot(basis[-1], v))
        for q in basis:
            overlap = _dot(q, v)
            v = tuple(each - overlap * along for each, along in zip(v, q, strict=True))
        norm = _dot(v, v) ** 0.5
        if not norm > 1e-6 * max(map(abs, diagonal)):
            break
        beside.append(norm)
    if not all(map(math.isfinite, (*diagonal, *beside))):
        return math.nan
    found = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for k, each in enumerate(beside[: len(diagonal) - 1]):
        found[k, k + 1] = found[k + 1, k] = each
    return float(torch.linalg.eigvalsh(found)[-1])


def _dot(a: Vector, b: Vector) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))


def _add(weights: Sequence[Tensor], step: Vector, factor: float) -> None:
    for each, change in zip(weights, step, strict=True):
        each.add_(change, alpha=factor)


register(CheckpointMeasurement(
    name="flatness",
    columns=(
        Column(
            "hessian_trace", "nats", "Trace of the Hessian", "Over the weights that are quantized; Hutchinson.",
            format=",.4~g", axis="log",
        ),
        Column("hessian_trace_se", "nats", "Standard error of the trace", menu=False),
        Column(
            "hessian_top", "nats", "Top eigenvalue of the Hessian", "20 steps of Lanczos.",
            format=",.4~g", axis="log",
        ),
        Column(
            "sam_rise_nats", "nats", "Rise of the loss along its gradient", "A step of length 0.05.",
            format=",.4~g", axis="log",
        ),
    ),
    of_model=of_model,
))  # fmt: skip
