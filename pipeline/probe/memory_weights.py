"""Weights of a model in memory: any ``nn.Module`` of linear layers in a list of blocks.

The model is never changed, so it may be in training. Its structure is copied once, with the same classes and
settings but without hooks and weights; for every measurement the copy uses the model's current weights: those in
float32 on the device are read in place, others are converted for the time of the measurement.
"""

from __future__ import annotations

import copy
import functools
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.models.experts import FUSED, fused_experts, separate_experts, separated
from pipeline.models.loading import refuse_non_finite
from pipeline.models.template import ModelTemplate, Signature
from pipeline.models.variant_linear import Plan
from pipeline.probe.weights import Filled

INNER = {"OptimizedModule": "_orig_mod", "CheckpointWrapper": "_checkpoint_wrapped_module"}
"""Wrappers of torch.compile and of activation checkpointing, by name because importing the first takes a second ->
attribute with the module.
"""
_IN_NAMES = re.compile(rf"(?<![^.])(?:{'|'.join(INNER.values())})\.")


class ModelWeights:
    """The current weights of ``model``."""

    def __init__(
        self,
        model: nn.Module,
        stored: torch.dtype | None = None,
        *,
        instead: Mapping[str, Tensor] | None = None,
    ) -> None:
        """``stored``: a dtype in which the values are exact; None = their own. ``instead``: a state dict to measure
        in place of the model's, on any device.
        """
        self._model, self._stored = unwrapped(model), stored
        self._state = _plain_names(self._model.state_dict(keep_vars=False))
        if instead is not None:
            given = _plain_names(instead)
            _require_like(self._state, given)
            self._state = {name: given[name] for name in self._state}
        # Experts may be wrapped by themselves; a wrapper may pass for the experts in it.
        for path in {
            _IN_NAMES.sub("", f"{name}.").removesuffix("."): None for name in fused_experts(self._model)
        }:
            self._state |= dict(separated(path, self._state))
            for name in FUSED:
                del self._state[f"{path}.{name}"]
        self._buffers = _plain_names(dict(self._model.named_buffers(remove_duplicate=False)))

    @property
    def config(self) -> Any:
        """The model's configuration, or a substitute."""
        return config_of(self._model)

    @functools.cached_property
    def are_finite(self) -> bool:
        """Whether every value is finite."""
        return all_finite(self._state.values())

    @property
    def signature(self) -> Signature:
        """Class and settings of the model and its modules, and shapes and dtypes of its weights."""
        described = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in self._state.items())
        settings = [_settings(module) for module in self._model.modules()]
        return Signature(
            f"{type(self._model).__qualname__} {self._stored}", described, (self.config.to_dict(), settings)
        )

    def template(self, plan: Plan, device: torch.device) -> ModelTemplate:
        """A copy of the model's structure."""
        model = structure_of(self._model, device)
        separate_experts(model)
        return ModelTemplate(
            self.config, self.signature, model, {name: name for name in self._state}, plan=plan, device=device
        )

    @torch.inference_mode()
    def fill(self, template: ModelTemplate) -> Filled:
        """Lend the weights; constants outside the state dict (rotary frequencies) are copied."""
        if not self.are_finite:
            refuse_non_finite(self._state)
        there = dict(template.model.named_buffers(remove_duplicate=False))
        for name, buffer in self._buffers.items():
            if name in there and there[name].shape == buffer.shape:
                there[name].copy_(buffer)
        template.lend({name: self._moved(name, tensor, template) for name, tensor in self._state.items()})
        return Filled(template, template.layers, one_by_one=False)

    def _moved(self, name: str, tensor: Tensor, template: ModelTemplate) -> Tensor:
        moved = tensor.detach() if tensor.device == template.device else tensor.detach().to(template.device)
        if not moved.is_floating_point():
            return moved
        if name in template.linears:
            return moved if self._stored is None else moved.to(self._stored)
        return moved.to(torch.float32)


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under the names that they have without wrappers."""
    return {_IN_NAMES.sub("", name): tensor for name, tensor in tensors.items()}


def _require_like(state: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise UsageError unless ``given`` has the names and shapes of ``state``."""
    for problem, names in (
        ("lacks", state.keys() - given.keys()),
        ("has, unlike the model,", given.keys() - state.keys()),
        (
            "has in another shape",
            {name for name in state.keys() & given.keys() if state[name].shape != given[name].shape},
        ),
    ):
        if names:
            raise UsageError(
                f"the state dict {problem} {', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}: wanted "
                f"one of a model like the one measured"
            )


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every floating value of ``tensors`` is finite; synchronises a GPU once."""
    floating = [each.detach() for each in tensors if each.is_floating_point() and each.numel()]
    with torch.no_grad():
        return math.isfinite(float(torch.nn.utils.get_total_norm(floating, math.inf)))


_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes of any module: its training mode, hooks, and tables of parameters and parts."""
_PLAIN = (bool, int, float, str, tuple, torch.dtype)


def _settings(module: nn.Module) -> tuple[type, list[tuple[str, Any]]]:
    """Class of ``module`` and its own plain attributes, such as a dropout rate; not its training mode."""
    return type(module), [
        (name, value)
        for name, value in vars(module).items()
        if name not in _EVERY_MODULE and isinstance(value, _PLAIN)
    ]


@dataclass(frozen=True)
class PlainConfig:
    """Substitute for the configuration of a model without one."""

    vocab_size: int
    """Rows of its largest embedding."""
    described: tuple[tuple[str, str], ...]
    """Name -> class and settings of every module."""

    def get_text_config(self, *, decoder: bool) -> PlainConfig:
        """Return itself."""
        del decoder
        return self

    def to_dict(self) -> dict[str, Any]:
        """The description, for comparisons."""
        return {"vocab_size": self.vocab_size, "modules": [list(each) for each in self.described]}


def config_of(model: nn.Module) -> Any:
    """The configuration of a transformers model, else a :class:`PlainConfig`."""
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        return config
    rows = [part.num_embeddings for part in model.modules() if isinstance(part, nn.Embedding)]
    if not rows:
        raise CheckpointError(f"{type(model).__name__} has no nn.Embedding: wanted a language model")
    described = tuple(
        (name, f"{type(part).__qualname__}({part.extra_repr()})") for name, part in model.named_modules()
    )
    return PlainConfig(max(rows), described)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile``, activation checkpointing or data parallelism."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = INNER.get(type(model).__name__)
    return model if inner is None else unwrapped(getattr(model, inner))


def _unwrap_parts(model: nn.Module) -> None:
    """Replace every part of ``model`` that is wrapped by itself, as regional compilation does, with what is inside."""
    for module in list(model.modules()):
        for name, part in module._modules.items():
            if part is not None:
                module._modules[name] = unwrapped(part)


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in float32 and eval mode, on its device, without hooks, its experts separate."""
    copied = _copied(unwrapped(model), None, frozenset())
    separate_experts(copied)
    return copied


def structure_of(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy on ``device`` whose parameters have shapes but no values."""
    return _copied(model, device, frozenset(map(id, model.parameters())))


@torch.no_grad()
def _copied(model: nn.Module, device: torch.device | None, hollow: frozenset[int]) -> nn.Module:
    """Copy ``model`` without the values of the parameters with the ids ``hollow``.

    Raises CheckpointError if it cannot be copied, and for floating buffers below float32: such constants (rotary
    frequencies) are not weights, and their lost precision cannot be restored.
    """
    replaced: dict[int, Any] = {}
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and buffer.dtype.itemsize < 4:
            raise CheckpointError(
                f"buffer {name} is held in {buffer.dtype}: wanted float32, because constants such as rotary "
                "frequencies lose precision there; cast parameters, not buffers, or measure a saved checkpoint"
            )
        replaced[id(buffer)] = buffer.detach().to(device=device, copy=True)
    for name, parameter in model.named_parameters():
        if type(parameter.data).__name__ == "DTensor" or parameter.numel() == 0:
            raise CheckpointError(
                f"parameter {name} is sharded or empty: wanted a model that is whole on one device"
            )
        if id(parameter) in hollow:
            values = torch.zeros((), device=device).expand(parameter.shape)
        else:
            values = parameter.detach().to(device, torch.float32, copy=True)
        replaced[id(parameter)] = nn.Parameter(values, requires_grad=False)
    for module in model.modules():
        for key, value in vars(module).items():
            if key.endswith("_hooks") or "_hooks_" in key:
                replaced[id(value)] = OrderedDict()
    try:
        copied: nn.Module = copy.deepcopy(model, replaced)
    except Exception as error:  # a module may hold any object
        raise CheckpointError(f"{type(model).__name__} cannot be copied to be measured: {error}") from error
    _unwrap_parts(copied)
    for module in copied.modules():
        vars(module).pop("forward", None)  # a forward that a trainer wrapped would call the original model
        module._compiled_call_impl = None
    return copied.eval()
