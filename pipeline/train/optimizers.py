"""Optimizers: AdamW with Pythia's settings, Muon for hidden matrices, SAM around AdamW; Adam's moments by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError
from pipeline.models.linear_layers import linear_sites
from pipeline.train.settings import OptimizerSettings

SAM_RADIUS = 0.05
"""Length of SAM's step uphill, in the 2-norm over all weights. Source: Foret et al. 2020 (arXiv 2010.01412)."""


class Together:
    """Several optimizers over disjoint parameters, used as one."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {str(index): optimizer.state_dict() for index, optimizer in enumerate(self.optimizers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for index, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(state[str(index)])


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over all parameters, decaying the matrices only. The learning rate is set at every step."""
    return _adamw([parameter for parameter in model.parameters() if parameter.requires_grad], settings)


def make_muon(model: nn.Module, settings: OptimizerSettings) -> Together:
    """Muon for the matrices of the transformer blocks, AdamW for the embeddings, the head, norms and biases.

    Updates are scaled to AdamW's root mean square, so that both take the same learning rate. Source: Jordan et al.
    2024 (Muon); Liu et al. 2025 (arXiv 2502.16982) for the scale.
    """
    hidden = [site.module.weight for site in linear_sites(model) if not site.is_head]
    chosen = {id(weight) for weight in hidden}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    muon = torch.optim.Muon(
        hidden,  # type: ignore[arg-type]
        lr=0.0,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return Together(muon, _adamw(rest, settings))


def _adamw(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=settings.eps, fused=True)


@contextmanager
def uphill(parameters: list[nn.Parameter], radius: float) -> Iterator[None]:
    """Context manager: move the weights ``radius`` along the gradient; afterwards they are restored, bit for bit."""
    with torch.no_grad():
        before = [parameter.clone() for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(each) for each in gradients]))
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.addcmul_(parameter.grad, radius / (norm + 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)


def moments_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Adam's state of every parameter, on the CPU, for ``torch.save``; loads with ``weights_only=True``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: {key: value.detach().cpu().clone() for key, value in state.items()}
        for parameter, state in optimizer.state.items()
    }


def load_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Load :func:`moments_by_name` into a fresh ``optimizer``. Raises CheckpointError if they do not fit."""
    for name, parameter in model.named_parameters():
        state = moments.get(name)
        if state is None or state["exp_avg"].shape != parameter.shape:
            raise CheckpointError(
                f"the optimizer state of the suite does not fit its weights: {name} is missing or misshapen"
            )
        optimizer.state[parameter] = {
            # AdamW's fused kernel needs the step count on the weights' device
            key: value.to(device=parameter.device, dtype=torch.float32).clone()
            for key, value in state.items()
        }
