"""Find the layers to quantize.

These are the linear layers of the transformer blocks (``nn.Linear``, and GPT-2's ``Conv1D``, whose weight
is stored transposed), a mixture's experts among them (``experts.py``), and, for a ``+head`` variant, the output
head. Both are found by structure, never by name: the blocks are the largest ``nn.ModuleList`` of the model, the
head is what ``get_output_embeddings()`` returns.
Embeddings, norms, biases and routers keep their stored values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline.base.errors import CheckpointError
from pipeline.models.experts import routers


@dataclass(frozen=True)
class LinearSite:
    """A quantizable linear layer and its path in the model."""

    name: str
    """Dotted module path."""
    module: nn.Module
    is_head: bool

    def weight(self) -> Tensor:
        """The weight as (out_features, in_features), contiguous."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return (weight.T if isinstance(self.module, Conv1D) else weight).detach().contiguous()


class WeightFacts:
    """Stand-in for ``weight`` of a layer with one weight per variant: gives its shape and dtype.

    Anything else raises CheckpointError, because the model's code would use one variant's values.
    """

    def __init__(self, weight: Tensor) -> None:
        self.shape, self.dtype, self.device = weight.shape, torch.float32, weight.device

    def __getattr__(self, name: str) -> Any:
        raise _refuse_reading(name)

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        raise _refuse_reading(getattr(function, "__name__", str(function)))


def _refuse_reading(what: str) -> CheckpointError:
    return CheckpointError(
        f"its code reads the weights of a linear layer by itself ({what}), not by calling the layer: no variant of "
        "them can be put in their place, so this architecture cannot be measured"
    )


def linear_sites(model: Any) -> list[LinearSite]:
    """Every quantizable layer of ``model`` in depth order, the output head last. In a model outside transformers
    the head is unknown and left out.

    Raises CheckpointError for an architecture whose blocks hold weight matrices outside linear layers (state-space
    parameters, experts of an unknown form), which would silently stay unquantized, and for one whose
    linear layers compute anything but a product and a sum, which would silently be left out.
    """
    prefix, found = blocks(model)
    of_transformers = hasattr(model, "get_output_embeddings")
    head = model.get_output_embeddings() if of_transformers else None
    routing = {id(p) for router in routers(found) for p in router.parameters()}
    sites = [
        LinearSite(f"{prefix}.{name}", module, is_head=False)
        for name, module in found.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and id(module.weight) not in routing
    ]
    covered = {id(site.module.weight) for site in sites} | routing
    left = [
        f"{prefix}.{name}" for name, p in found.named_parameters() if p.dim() > 1 and id(p) not in covered
    ]
    left += [
        name for name, module in model.named_modules() if _is_block_like(name, module, model, covered, head)
    ]
    if not sites or left:
        shown = ", ".join(left[:3]) or "no linear layer at all"
        raise CheckpointError(
            f"{type(model).__name__} is not supported: its blocks hold weights outside linear layers ({shown})"
        )
    if head is None and of_transformers:
        raise CheckpointError(f"{type(model).__name__} has no output head: wanted a causal language model")
    heads = [] if head is None else [head]
    plain = {type(module): _is_plain(module) for module in [*heads, *(site.module for site in sites[::-1])]}
    own = [
        f"{name} ({type(module).__name__})"
        for name, module in [
            *((site.name, site.module) for site in sites),
            *(("its output head", module) for module in heads),
        ]
        if not plain[type(module)] or "forward" in vars(module)
    ]
    if own:
        raise CheckpointError(
            f"{type(model).__name__} is not supported: {', '.join(own[:3])} computes more than the product with its "
            "weight, so no product can take its place"
        )
    names = [name for name, module in model.named_modules() if module in heads]
    return [
        *sites,
        *(LinearSite(name, module, is_head=True) for name, module in zip(names, heads, strict=False)),
    ]


def _is_plain(module: nn.Module) -> bool:
    """Whether ``module`` computes like ``nn.Linear`` or ``Conv1D``: tried with random weights on rows of several
    sizes, so that rounding or clipping shows.
    """
    if type(module).forward in (nn.Linear.forward, Conv1D.forward) and "forward" not in vars(module):
        return True
    shape: torch.Size = module.weight.shape  # type: ignore[assignment]
    out_features, features = reversed(shape) if isinstance(module, Conv1D) else shape
    generator = torch.Generator().manual_seed(0)
    weight, bias, rows = (
        torch.randn(each, generator=generator) for each in (shape, (out_features,), (1, 4, features))
    )
    rows *= torch.tensor([1e-3, 1.0, 30.0, 1e3])[:, None]
    given = {"weight": weight} if module.bias is None else {"weight": weight, "bias": bias}
    weight_OI = weight.T if isinstance(module, Conv1D) else weight
    expected = nn.functional.linear(rows, weight_OI, given.get("bias"))
    try:
        with torch.no_grad():
            found = torch.func.functional_call(module, given, (rows,))
    except (RuntimeError, TypeError, ValueError):
        return False
    largest = rows.abs().matmul(weight_OI.abs().T) + bias.abs()
    return found.shape == expected.shape and bool(((found - expected).abs() <= 1e-5 * largest).all())


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set ``module`` at the dotted path ``name``."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _is_block_like(name: str, module: nn.Module, model: nn.Module, covered: set[int], head: Any) -> bool:
    """Whether a linear layer lies in another list of modules: blocks spread over several lists (XLM)."""
    if not isinstance(module, nn.Linear | Conv1D) or module is head or id(module.weight) in covered:
        return False
    parents = name.split(".")
    return any(
        isinstance(model.get_submodule(".".join(parents[:n])), nn.ModuleList) for n in range(1, len(parents))
    )


def blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The decoder layers of ``model`` and their dotted path: its largest module list."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise CheckpointError(f"{type(model).__name__} is not supported: it has no nn.ModuleList of blocks")
    return max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))
