"""Find the model inside a training run's wrappers, measure it without a trace, and tell every process the result."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from pipeline.base.errors import CollapseError, UsageError
from pipeline.monitor.verdicts import Observed

WRAPPERS: Mapping[str, str] = {"OptimizedModule": "_orig_mod", "DeepSpeedEngine": "module"}
"""Wrapper classes, by name to avoid imports -> their attribute with the model."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The causal language model of transformers inside DDP, ``torch.compile``, ``AveragedModel`` and the like.

    Raises UsageError, by name, for models that cannot be measured: shards of FSDP and ZeRO-3, unmerged adapters,
    several devices, weights without data.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"{type(model).__name__} is not a model: wanted a torch.nn.Module of transformers")
    inner: nn.Module | None = model
    while inner is not None:
        model, inner = inner, _inside(inner)
    parameters, modules = list(model.parameters()), list(model.modules())
    _refuse_sharded(model, parameters, modules)
    _refuse_adapters(model, modules)
    if not hasattr(model, "config"):
        raise UsageError(
            f"{type(model).__name__} has no config: wanted a causal language model of transformers, or one in DDP or "
            "torch.compile"
        )
    devices = sorted(map(str, {each.device for each in parameters}))
    if len(devices) != 1 or devices == ["meta"]:
        raise UsageError(
            f"the weights of {type(model).__name__} are on {', '.join(devices) or 'no device'}: wanted all of them on "
            "one; measure a copy on one device"
        )
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    """The model inside ``model``; None if it is not a wrapper."""
    if isinstance(model, DistributedDataParallel | DataParallel | AveragedModel):
        return model.module
    for kind in type(model).__mro__:
        if kind.__name__ in WRAPPERS and WRAPPERS[kind.__name__] in {
            *vars(model),
            *getattr(model, "_modules", {}),
        }:
            inner: nn.Module = getattr(model, WRAPPERS[kind.__name__])
            return inner
    return None


def _refuse_sharded(model: nn.Module, parameters: list[nn.Parameter], modules: list[nn.Module]) -> None:
    ways = {
        "FSDP": any(type(each).__name__ == "FullyShardedDataParallel" for each in modules)
        or any(type(each).__name__ == "DTensor" for each in parameters),
        "DeepSpeed ZeRO-3": any(hasattr(each, "ds_id") and each.numel() == 0 for each in parameters),
    }
    for way, is_sharded in ways.items():
        if is_sharded:
            raise UsageError(
                f"{type(model).__name__} is sharded by {way}: no process holds whole weights; wanted a model with all "
                "of them, such as a plain copy filled with the gathered state dict (get_model_state_dict with "
                "full_state_dict=True)"
            )


def _refuse_adapters(model: nn.Module, modules: list[nn.Module]) -> None:
    for each in modules:
        if type(each).__module__.split(".")[0] == "peft":
            raise UsageError(
                f"{type(model).__name__} holds {type(each).__name__} of PEFT: its adapters are not in the weights that "
                "would be quantized; wanted the merged model, such as copy.deepcopy(model).merge_and_unload()"
            )


@contextlib.contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Context manager: no gradients, no autocast; afterwards training modes, flags and random states are restored."""
    modes = [(each, each.training) for each in model.modules()]
    wants = [(each, each.requires_grad, each.grad) for each in model.parameters()]
    device = next(model.parameters()).device
    drawn: tuple[Any, Any] = random.getstate(), np.random.get_state()  # noqa: NPY002
    gpus = [device] if device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=gpus),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast(device.type, enabled=False) if gpus else contextlib.nullcontext(),
        ):
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        for module, training in modes:
            module.training = training
        for parameter, wanted, gradient in wants:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
            if parameter.grad is not gradient:
                parameter.grad = gradient


def on_rank_0(measured: Callable[[], Observed]) -> Observed:
    """Return the result of ``measured`` on rank 0 to every rank; its error too, so that no process waits forever."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return measured()
    said: list[Any] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            said = [measured()]
        except CollapseError as error:
            said = [error]
        except Exception as error:
            torch.distributed.broadcast_object_list(
                [CollapseError(f"{type(error).__name__}: {error}")], src=0
            )
            raise
    torch.distributed.broadcast_object_list(said, src=0)
    if isinstance(said[0], CollapseError):
        raise said[0]
    observed: Observed = said[0]
    return observed
