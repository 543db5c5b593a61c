"""A mixture's experts as linear layers of their own.

transformers keeps the experts of a layer in two tensors of three dimensions, ``gate_up_proj`` and ``down_proj``,
although files hold a matrix for each. Here every expert has its three linear layers again, views of those tensors, so
that they are quantized, calibrated and listed like all others. Fused experts are found by the shapes of their tensors,
and their forward is tried against this one with random weights: what computes anything else stays as it is, and is
refused by ``linear_layers``.

A linear layer may be given the rows of several variants at once (``variant_linear``), each of which chooses experts by
its own hidden states. An expert's rows are therefore gathered variant by variant and filled up with zeros to one
number.

Legend: V = variants, R = rows (tokens) of each, K = experts of a token, A = R x K assignments, E = experts,
D = hidden size, I = inner size, M = rows of an expert.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError

FUSED = {"gate_up_proj", "down_proj"}
"""The parameters of fused experts: (E, 2 I, D) and (E, D, I)."""
MULTIPLE = 16
"""Rows of an expert are filled up to a multiple of it, because Triton compiles other kernels for other numbers."""


class Expert(nn.Module):
    """The three linear layers of one expert, without weights."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(hidden, inner, bias=False, device="meta") for _ in range(2))
        self.down_proj = nn.Linear(inner, hidden, bias=False, device="meta")

    def forward(self, rows_VMD: Tensor, act: Callable[[Tensor], Tensor], counts: list[int]) -> Tensor:
        """Its output for the first ``counts`` rows of each variant; the rows after them are zeros."""
        for linear in self.children():
            linear.filled = counts  # type: ignore[assignment]
        out_VMD: Tensor = self.down_proj(act(self.gate_proj(rows_VMD)) * self.up_proj(rows_VMD))
        return out_VMD


class SeparateExperts(nn.Module):
    """Replaces ``fused`` experts: the same function, a linear layer for each matrix.

    Its state dict has ``0.gate_proj.weight`` and so on.
    """

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.count, hidden, inner = fused.down_proj.shape
        self.act_fn: Callable[[Tensor], Tensor] = fused.act_fn
        for index in range(self.count):
            self.add_module(str(index), Expert(hidden, inner))

    def forward(self, hidden: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
        """Sum of the outputs of each row's experts.

        ``hidden``: (V * R, D), variants outermost; ``experts``: int64 (V * R, K); ``shares``: the weights, (V * R, K).
        """
        parts = [part for part in self.children() if isinstance(part, Expert)]
        variants = getattr(parts[0].gate_proj, "stacked", 1)
        hidden_VRD = hidden.reshape(variants, -1, hidden.shape[-1])
        shares_VA, expert_VA = shares.reshape(variants, -1), experts.reshape(variants, -1)
        counts_VE = expert_VA.new_zeros(variants, self.count)
        counts_VE.scatter_add_(1, expert_VA, torch.ones_like(expert_VA))
        order_VA, firsts_VE = expert_VA.argsort(dim=1, stable=True), counts_VE.cumsum(1) - counts_VE
        out_VRD = torch.zeros_like(hidden_VRD)
        for index, counts in enumerate(counts_VE.T.tolist()):  # waits for the device once
            place_M = torch.arange(max(1, -(-max(counts) // MULTIPLE)) * MULTIPLE, device=hidden.device)
            is_row_VM = place_M < counts_VE[:, index, None]
            place_VM = (firsts_VE[:, index, None] + place_M).clamp(max=order_VA.shape[1] - 1)
            assigned_VM = order_VA.gather(1, place_VM)
            row_VMD = (assigned_VM // experts.shape[-1])[..., None].expand(-1, -1, hidden.shape[-1])
            rows_VMD = hidden_VRD.gather(1, row_VMD).masked_fill(~is_row_VM[..., None], 0)
            found_VMD = (
                parts[index](rows_VMD, self.act_fn, counts) * shares_VA.gather(1, assigned_VM)[..., None]
            )
            # Filled-up rows add zeros to other tokens, also where infinite weights make NaN of theirs.
            found_VMD = found_VMD.masked_fill(~is_row_VM[..., None], 0)
            out_VRD.scatter_add_(1, row_VMD, found_VMD.to(hidden.dtype))
        return out_VRD.view_as(hidden)


def fused_experts(model: nn.Module) -> dict[str, nn.Module]:
    """Dotted path -> module, of every module of ``model`` that holds experts in two tensors."""
    return {name: module for name, module in model.named_modules() if _is_fused(module)}


def _is_fused(module: nn.Module) -> bool:
    tensors = dict(module.named_parameters())
    if tensors.keys() != FUSED or not callable(getattr(module, "act_fn", None)):
        return False
    both, down = tensors["gate_up_proj"], tensors["down_proj"]
    return both.dim() == down.dim() == 3 and both.shape == (down.shape[0], 2 * down.shape[2], down.shape[1])


def separated(path: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and matrices, without a copy, that take the place of the fused ``tensors`` of the module at ``path``."""
    both_E2ID, down_EDI = (tensors[f"{path}.{name}"] for name in ("gate_up_proj", "down_proj"))
    inner = down_EDI.shape[2]
    for index, (both, down) in enumerate(zip(both_E2ID, down_EDI, strict=True)):
        for name, matrix in (("gate_proj", both[:inner]), ("up_proj", both[inner:]), ("down_proj", down)):
            yield f"{path}.{index}.{name}.weight", matrix


@torch.no_grad()
def separate_experts(model: nn.Module) -> None:
    """Replace all fused experts of ``model`` that compute what :class:`SeparateExperts` does."""
    for path, fused in fused_experts(model).items():
        if _computes_the_same(fused):
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _separate(fused))


def _separate(fused: Any) -> SeparateExperts:
    experts = SeparateExperts(fused)
    for name, matrix in separated("", {f".{name}": tensor for name, tensor in fused.named_parameters()}):
        path, _, leaf = name.removeprefix(".").rpartition(".")
        experts.get_submodule(path)._parameters[leaf] = nn.Parameter(matrix.detach(), requires_grad=False)
    return experts.train(fused.training)


def _computes_the_same(fused: Any) -> bool:
    """Tried with random weights of a small inner size on rows of several sizes, so that clipping shows."""
    count, hidden, inner = fused.down_proj.shape
    inner, chosen, generator = min(inner, 8), min(count, 2), torch.Generator().manual_seed(0)
    trial = copy.copy(fused)
    shapes = {"gate_up_proj": (count, 2 * inner, hidden), "down_proj": (count, hidden, inner)}
    trial._parameters = {
        name: nn.Parameter(torch.randn(shape, generator=generator), requires_grad=False)
        for name, shape in shapes.items()
    }
    sizes = torch.tensor([1e-2, 1.0, 30.0, 1e3]).repeat(2)
    rows = torch.randn(8, hidden, generator=generator) * sizes[:, None]
    shares, experts = torch.rand(8, count, generator=generator).topk(chosen)
    # What transformers chooses by configuration in its place computes the same.
    forward = getattr(type(fused).forward, "__wrapped__", type(fused).forward)
    try:
        expected = forward(trial, rows, experts, shares)
        found = _separate(trial)(rows, experts, shares)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    largest = found.abs().amax(dim=1, keepdim=True)
    return found.shape == expected.shape and bool(((found - expected).abs() <= 1e-4 * largest).all())


def routers(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of ``model`` that choose experts or weigh them, which are never quantized: beside experts, what has
    only matrices of one row or of a row for each expert. The linear layers that such a part holds are given too.

    Raises CheckpointError unless one part beside experts has a row for each: more, and one may be a linear layer to
    quantize; none, and the router is of another form.
    """
    for module in model.modules():
        counts = {count for child in module.children() if (count := _count(child))}
        choosing = []
        for name, child in module.named_children() if counts else ():
            rows = {tensor.shape[0] for tensor in child.parameters() if tensor.dim() > 1}
            if _count(child) or not rows or not rows <= counts | {1}:
                continue
            if rows & counts:
                choosing.append(name)
            yield from (part for part in child.modules() if part is child or isinstance(part, nn.Linear))
        if counts and counts != {1} and len(choosing) != 1:
            raise CheckpointError(
                f"which part of {type(module).__name__} is its router is not known: wanted one whose matrices "
                f"have a row for each of {min(counts)} experts, found {', '.join(choosing) or 'none'}"
            )


def _count(module: nn.Module) -> int:
    """Experts that ``module`` holds; 0 where it is something else."""
    if isinstance(module, SeparateExperts):
        return module.count
    return len(dict(module.named_parameters())["down_proj"]) if _is_fused(module) else 0
