"""Curvature of the loss over the quantized weights: trace and top eigenvalue of the Hessian, and the rise of the loss
along its gradient.

On the first sequences of the evaluation text, in float32. The trace is Hutchinson's estimate, the mean of v'Hv over
vectors v of random signs; the top eigenvalue comes from 20 steps of Lanczos; the rise is that of
sharpness-aware minimisation, L(w + rho g / |g|) - L(w) with rho = 0.05 (Foret et al. 2021, arXiv 2010.01412). The
vectors are the same for every checkpoint. Normal noise of standard deviation s in every weight costs s^2 trace / 2 on
average, as far as a parabola goes. The relative trace is the sum over matrices of their mean square times the trace
over them alone: noise of a share a of each matrix' root mean square costs a^2 / 2 times it, the same wherever weights
are rescaled and a norm undoes it.

A Hessian-vector product is the gradient of g'v. The fused kernels of attention have no second derivative: a model that
uses them gets attention by plain products here, and a note says so. Own code, because curvlinops 3.0.1 brings five
packages and hessian-eigenthings is a pre-release (1.0.0a5), for what is one call of autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import CheckpointError
from pipeline.measurements.measurement import CheckpointMeasurement, Column, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor, nn

SEQUENCES, AT_ONCE = 16, 4
DRAWS, ITERATIONS, RHO = 16, 20, 0.05
OWN, PLAIN = "the model's own", "plain products"
"""Ways in which attention is computed."""

Vector = tuple["Tensor", ...]


def of_model(model: Any, tokens_NT: Tensor) -> Values:
    """NaN where a loss or a derivative is not finite. Fewer sequences go at a time where a GPU's memory is short."""
    import torch

    for at_once in (AT_ONCE, AT_ONCE // 2):
        try:
            return _of_parts(model, tokens_NT, at_once)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    return _of_parts(model, tokens_NT, 1)


def _of_parts(model: Any, tokens_NT: Tensor, at_once: int) -> Values:
    """The columns, from ``at_once`` sequences at a time."""
    import torch

    names, weights = zip(*block_matrices(model).items(), strict=True)
    parts = tokens_NT[:SEQUENCES].split(at_once)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Vector:
        return tuple(
            torch.randint(0, 2, each.shape, generator=generator).to(each.device, torch.float32) * 2 - 1
            for each in weights
        )

    with torch.enable_grad(), differentiable(weights):
        attention = _attention(model, tokens_NT[:1], weights)
    with torch.enable_grad(), _attending(attention), differentiable(weights):
        loss, gradient = gradient_of(model, parts, weights)
        draws = []
        for _ in range(DRAWS):
            v = draw()
            draws.append(_by_matrix(v, _product(model, parts, weights, v)))
        top = _top_eigenvalue(lambda v: _product(model, parts, weights, v), draw())
        size = _dot(gradient, gradient) ** 0.5
        with torch.no_grad():
            for each, direction in zip(weights, gradient, strict=True):
                each.add_(
                    direction, alpha=RHO / size if size else 0.0
                )  # a stationary point has no such direction
            rise = sum(float(part_loss(model, part, tokens_NT[:SEQUENCES])) for part in parts) - loss
    draws_DM, squares_M = torch.stack(draws), _by_matrix(weights, weights) / _sizes(weights)
    whole_D, relative_D = draws_DM.sum(dim=1), draws_DM @ squares_M
    return {
        "hessian_trace": whole_D.mean(),
        "hessian_trace_se": whole_D.std() / DRAWS**0.5,
        "hessian_relative_trace": relative_D.mean(),
        "hessian_relative_trace_se": relative_D.std() / DRAWS**0.5,
        "hessian_top": top,
        "sam_rise_nats": rise,
        "hessian_sequences": len(tokens_NT[:SEQUENCES]),
        "hessian_attention": attention,
        "hessian_matrices": " ".join(names),
        "hessian_draws": draws_DM.flatten().tolist(),
    }


def notes(values: Values) -> list[str]:
    """A note where attention is not computed as the model does."""
    if values["hessian_attention"] != PLAIN:
        return []
    return [
        f"flatness: attention computed by {PLAIN}, because the model's own kernel has no second derivative"
    ]


def block_matrices(model: nn.Module) -> dict[str, Tensor]:
    """The matrices of the largest list of modules by the dotted path of their module: the weights that are quantized,
    for a model whose blocks hold others is refused (``models.linear_layers``).
    """
    from torch import nn

    lists = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList)]
    path, largest = max(lists, key=lambda each: sum(p.numel() for p in each[1].parameters()))
    named = largest.named_parameters(prefix=path)
    return {name.removesuffix(".weight"): parameter for name, parameter in named if parameter.dim() > 1}


def _attention(model: Any, few_NT: Tensor, weights: Sequence[Tensor]) -> str:
    """The way to compute attention that has a second derivative, tried on ``few_NT``. Raises CheckpointError if no way
    has one.
    """
    missing: RuntimeError | None = None
    for way in (OWN, PLAIN):
        try:
            with _attending(way):
                _differentiate_twice(model, few_NT, weights)
        except RuntimeError as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            missing = error
        else:
            return way
    raise CheckpointError(
        f"measurement 'flatness' needs second derivatives, which this model does not give ({missing}): leave it out"
    ) from missing


def _differentiate_twice(model: Any, few_NT: Tensor, weights: Sequence[Tensor]) -> None:
    """Raise RuntimeError if a part of the model has no second derivative. A product with the Hessian would silently
    leave out what goes through a function that is marked as differentiable once; ``backward`` enters it.
    """
    import torch

    first = torch.autograd.grad(part_loss(model, few_NT, few_NT), list(weights), create_graph=True)
    try:
        torch.stack([g.square().sum() for g in first]).sum().backward()
    finally:
        for each in (*model.parameters(), *weights):
            each.grad = None


def _attending(way: str) -> AbstractContextManager[Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH) if way == PLAIN else nullcontext()


@contextmanager
def differentiable(weights: Sequence[Tensor]) -> Iterator[None]:
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


def part_loss(model: Any, part_NT: Tensor, all_NT: Tensor) -> Tensor:
    """What ``part_NT`` adds to the mean loss over the predictions in ``all_NT``."""
    from torch.nn import functional

    if hasattr(model, "get_output_embeddings"):
        out = model(input_ids=part_NT, use_cache=False, return_dict=True)
    else:  # no model of transformers
        out = model(part_NT)
    logits = (out.logits if hasattr(out, "logits") else out)[:, :-1].flatten(0, 1).float()
    total = functional.cross_entropy(logits, part_NT[:, 1:].flatten(), reduction="sum")
    return total / (all_NT.shape[0] * (all_NT.shape[1] - 1))


def gradient_of(model: Any, parts: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[float, Vector]:
    """The mean loss over the predictions in ``parts``, and its gradient with respect to ``weights``."""
    import torch

    whole, total, found = torch.cat(list(parts)), 0.0, [torch.zeros_like(each) for each in weights]
    for part in parts:
        loss = part_loss(model, part, whole)
        total += float(loss.detach())
        for added, each in zip(found, torch.autograd.grad(loss, list(weights)), strict=True):
            added.add_(each)
    return total, tuple(found)


def _product(model: Any, parts: Sequence[Tensor], weights: Sequence[Tensor], v: Vector) -> Vector:
    """H v."""
    import torch

    whole, found = torch.cat(list(parts)), [torch.zeros_like(each) for each in weights]
    for part in parts:
        first = torch.autograd.grad(part_loss(model, part, whole), list(weights), create_graph=True)
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


def _by_matrix(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """float64 (M,): the product of ``a`` and ``b`` over each parameter, on the CPU; experts' matrices count apart."""
    import torch

    products = zip(a, b, strict=True)
    return torch.cat(
        [(x.double() * y.double()).sum(dim=(-2, -1)).flatten().detach().cpu() for x, y in products]
    )


def _sizes(weights: Sequence[Tensor]) -> Tensor:
    """float64 (M,): numbers of weights, in the order of :func:`_by_matrix`."""
    import torch

    sizes = [each.new_full(each.shape[:-2], each.shape[-2] * each.shape[-1]).flatten() for each in weights]
    return torch.cat(sizes).double().cpu()


register(CheckpointMeasurement(
    name="flatness",
    columns=(
        Column(
            "hessian_trace", "nats", "Trace of the Hessian", "Over the weights that are quantized; Hutchinson.",
            format=",.4~g", axis="log",
        ),
        Column("hessian_trace_se", "nats", "Standard error of the trace", menu=False),
        Column(
            "hessian_relative_trace", "nats", "Relative trace of the Hessian",
            "Each matrix' trace times its mean square: noise of a share a of its size costs a^2 / 2 times it.",
            format=",.4~g", axis="log",
        ),
        Column("hessian_relative_trace_se", "nats", "Standard error of the relative trace", menu=False),
        Column(
            "hessian_top", "nats", "Top eigenvalue of the Hessian", "20 steps of Lanczos.",
            format=",.4~g", axis="log",
        ),
        Column(
            "sam_rise_nats", "nats", "Rise of the loss along its gradient", "A step of length 0.05.",
            format=",.4~g", axis="log",
        ),
        Column("hessian_sequences", "", "Sequences of the evaluation text", dtype="int64", tables=False),
        Column("hessian_attention", "", "How attention was computed", dtype="string"),
        Column("hessian_matrices", "", "Paths of the matrices, with spaces between them", dtype="string"),
        Column("hessian_draws", "nats", "v'Hv over each matrix, draw by draw", dtype="list<float64>"),
    ),
    of_model=of_model,
    notes=notes,
))  # fmt: skip
