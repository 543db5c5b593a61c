"""The weights of a model in memory: any ``nn.Module`` of linear layers in a list of blocks, measured without a folder.

The model is never changed, so it may be in the middle of training. Its structure is copied once, with the same classes
and settings but without its hooks and weights; for every measurement the weights that it has then are put in.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError
from pipeline.models.linear_layers import linear_sites
from pipeline.models.loading import refuse_non_finite
from pipeline.models.template import ModelTemplate, Signature
from pipeline.models.variant_linear import Plan
from pipeline.probe.weights import Filled


class ModelWeights:
    """The weights that ``model`` has now."""

    def __init__(self, model: nn.Module, stored: torch.dtype | None = None) -> None:
        """``stored``: a dtype that the values are exact in; None = as they are."""
        self._model, self._stored = unwrapped(model), stored
        self._state = dict(self._model.state_dict(keep_vars=False))

    @property
    def config(self) -> Any:
        """The model's, or what stands for it."""
        return config_of(self._model)

    @property
    def signature(self) -> Signature:
        """Its class, settings, and the shapes and dtypes of its weights."""
        described = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in self._state.items())
        return Signature(
            f"{type(self._model).__qualname__} {self.config.to_dict()} {self._stored}", described
        )

    def template(self, plan: Plan, device: torch.device) -> ModelTemplate:
        """A copy of its structure."""
        model = structure_of(self._model, device)
        return ModelTemplate(
            self.config, self.signature, model, {name: name for name in self._state}, plan=plan, device=device
        )

    @torch.inference_mode()
    def fill(self, template: ModelTemplate) -> Filled:
        """Puts them in; those of linear layers are not copied where they are on the device."""
        refuse_non_finite(self._state)
        template.put({name: self._moved(name, tensor, template) for name, tensor in self._state.items()})
        return Filled(template, template.layers, one_by_one=False)

    def _moved(self, name: str, tensor: Tensor, template: ModelTemplate) -> Tensor:
        moved = tensor.detach().to(template.device)
        if name in template.linears and self._stored is not None and moved.is_floating_point():
            return moved.to(self._stored)
        return moved


@dataclass(frozen=True)
class PlainConfig:
    """What stands for the configuration of a model that has none."""

    vocab_size: int
    """Rows of its largest embedding."""
    described: tuple[tuple[str, str], ...]
    """Class and settings of every module, by name."""

    def get_text_config(self, *, decoder: bool) -> PlainConfig:
        """Itself."""
        del decoder
        return self

    def to_dict(self) -> dict[str, Any]:
        """What tells it from another."""
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
    """The model itself, of one that is compiled or data parallel."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if type(model).__name__ == "OptimizedModule":  # of torch.compile; importing its class takes a second
        original: nn.Module = model._orig_mod  # type: ignore[assignment]
        return unwrapped(original)
    return model


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy of all of ``model`` in float32 and eval mode, on its device and without its hooks."""
    return _copied(unwrapped(model), None, frozenset())


def structure_of(model: nn.Module, device: torch.device) -> nn.Module:
    """The same on ``device``, where the weights of linear sites hold nothing unless something else shares them."""
    sites = {f"{site.name}.weight" for site in linear_sites(model)}
    names: defaultdict[int, set[str]] = defaultdict(set)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].add(name)
    return _copied(model, device, frozenset(key for key, used in names.items() if used <= sites))


@torch.no_grad()
def _copied(model: nn.Module, device: torch.device | None, hollow: frozenset[int]) -> nn.Module:
    """Without the values of the parameters with the ids ``hollow``.

    CheckpointError for what cannot be copied, and for floating buffers in less than float32: such constants (rotary
    frequencies) are no weights, and nothing restores what they lost.
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
        empty = torch.empty(parameter.shape, device="meta")
        values = empty if id(parameter) in hollow else parameter.detach().to(device, torch.float32, copy=True)
        replaced[id(parameter)] = nn.Parameter(values, requires_grad=False)
    for module in model.modules():
        for key, value in vars(module).items():
            if key.endswith("_hooks") or "_hooks_" in key:
                replaced[id(value)] = OrderedDict()
    try:
        copied: nn.Module = copy.deepcopy(model, replaced)
    except Exception as error:  # a module may hold anything
        raise CheckpointError(f"{type(model).__name__} cannot be copied to be measured: {error}") from error
    for module in copied.modules():
        vars(module).pop(
            "forward", None
        )  # one that a trainer wrapped calls the model that it was copied from
        module._compiled_call_impl = None
    return copied.eval()
