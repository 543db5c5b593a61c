"""The model template: a model without weights that is reused for all checkpoints, and the place of its weights in
their files.

transformers maps a file's names to a module's (``embed_out.weight`` becomes ``lm_head.weight``) while it loads, and
may also transpose, split or join tensors. The mapping is therefore learned, not guessed: once per template
transformers loads *markers*, tensors whose every element encodes its tensor and position. A parameter that holds
marker i unchanged is a copy of tensor i for every checkpoint with the same names, shapes and dtypes. If a parameter
does not, transformers loads every checkpoint, and the probe adds a note.

Markers are as large as the model. For measuring layer by layer the mapping is read from the addresses of
placeholders instead, which hold no values (``placeholders.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline.base.fingerprints import canonical_json
from pipeline.models.linear_layers import blocks, linear_sites, replace_module
from pipeline.models.loading import PROVENANCE, StoredWeights, build_model, read_config
from pipeline.models.placeholders import PlaceholderModel, WeightIndex, marked, marker, put, refuse_assembled
from pipeline.models.variant_linear import Plan, ProbeLinear, require_rules


@dataclass(frozen=True)
class Signature:
    """Checkpoints with equal signatures share a template."""

    config: str
    """The configuration as canonical JSON."""
    tensors: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
    settings: Any = None
    """The configuration of a model in memory and those of its modules, compared as they are. As text they would take
    most of the host's time of an observation."""


class ModelTemplate:
    """A causal language model in eval mode on the device, every quantizable layer a :class:`ProbeLinear`.

    Made from a ``model`` on the CPU; ``sources``: weight -> tensor of the files, except for weights that are not
    plain copies.
    """

    def __init__(
        self,
        config: Any,
        signature: Signature,
        model: nn.Module,
        sources: dict[str, str],
        *,
        plan: Plan,
        device: torch.device,
    ) -> None:
        self.config, self.signature = config, signature
        self.device = device
        self._sources = sources
        self._assembled = [name for name, _ in _state(model) if name not in sources]
        self._prefix, self.layers = blocks(model)
        self.linears: dict[str, ProbeLinear] = {}
        """Name of the weight -> linear layer."""
        sites = linear_sites(model)
        require_rules((*plan.spec.variants, *plan.spec.mechanism), sites, config.to_dict())
        for site in sites:
            weight_name = f"{site.name}.weight"
            linear = ProbeLinear(site, weight_name, isinstance(site.module, Conv1D), plan)
            replace_module(model, site.name, linear)
            self.linears[weight_name] = linear
        for layer in self.layers:
            _count_tokens(layer, plan)
        self.model: Any = model.to(device)
        # Weights copied into the model; the linear layers hold theirs separately.
        self._direct = {name: tensor for name, tensor in _state(self.model) if name not in self.linears}
        self._parameters: dict[str, tuple[Any, str, nn.Parameter]] = {
            name: (self.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], parameter)
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
        }
        """The model's own parameters, which lent ones replace for a while: module, attribute, parameter."""
        self._lent: set[str] = set()

    @classmethod
    def learned(
        cls, folder: Path, tensors: dict[str, Tensor], plan: Plan, device: torch.device
    ) -> ModelTemplate:
        """Make the template for checkpoints like that in ``folder`` with markers: a float32 model in host memory."""
        names = list(tensors)
        markers = {
            name: marker(index, tensors[name].shape)
            if tensors[name].is_floating_point()
            else torch.zeros(tensors[name].shape, dtype=tensors[name].dtype)
            for index, name in enumerate(names)
        }
        config = read_config(folder)
        model = build_model(config, StoredWeights(markers, "", torch.float32))
        return cls(config, signature(folder, tensors), model, _learn(model, names), plan=plan, device=device)

    @classmethod
    def hollow(cls, folder: Path, index: WeightIndex, plan: Plan, device: torch.device) -> ModelTemplate:
        """Make the template with placeholders: host memory for embeddings and vectors only."""
        hollow = PlaceholderModel.of(folder, index)
        linears = {f"{site.name}.weight" for site in linear_sites(hollow.model)}
        zeros: dict[str, Tensor] = {}
        state = hollow.model.state_dict()
        for name, key in hollow.stored.items():
            if name not in linears:  # tied weights stay one tensor
                empty = torch.zeros(state[name].shape, dtype=state[name].dtype)
                zeros.setdefault(key, nn.Parameter(empty, requires_grad=False))
                put(hollow.model, name, zeros[key])
        known = signature(folder, index.outlines)
        return cls(read_config(folder), known, hollow.model, hollow.stored, plan=plan, device=device)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self._assembled:
            return ()
        return (
            "weights are converted by transformers for every checkpoint: their layout differs from the files'",
        )

    @property
    def head(self) -> Tensor | None:
        """The weight of the output head as stored; None if not filled."""
        return next((linear.stored for linear in self.linears.values() if linear.is_head), None)

    @property
    def layer_paths(self) -> tuple[str, ...]:
        """The dotted path of each decoder layer, ending in a dot."""
        return tuple(f"{self._prefix}.{index}." for index in range(len(self.layers)))

    def sources(self, layer: int | None = None) -> dict[str, str]:
        """Weight's name in the model -> tensor of the files, for layer ``layer``; None: outside the layers. Raises
        CheckpointError if some are not plain copies.
        """
        if self._assembled:
            raise refuse_assembled(self.model, self._assembled)
        inside = f"{self._prefix}." if layer is None else f"{self._prefix}.{layer}."
        return {
            name: key for name, key in self._sources.items() if name.startswith(inside) == (layer is not None)
        }

    @torch.inference_mode()
    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Fill the model with the weights of one checkpoint (on the device, by the file's names)."""
        if self._assembled:
            on_cpu = StoredWeights(
                {name: tensor.cpu() for name, tensor in tensors.items()}, "", torch.float32
            )
            stored = {
                name: tensor.to(self.device) for name, tensor in _state(build_model(self.config, on_cpu))
            }
        else:
            stored = {name: tensors[key] for name, key in self._sources.items()}
        self.put(stored)

    @torch.inference_mode()
    def put(self, stored: Mapping[str, Tensor]) -> None:
        """Set some weights (on the device, by their names in the model)."""
        for name, tensor in stored.items():
            if name in self.linears:
                self.linears[name].stored = tensor
            else:
                self._direct[name].copy_(tensor)

    @torch.inference_mode()
    def lend(self, stored: Mapping[str, Tensor]) -> None:
        """Like :meth:`put`, without a copy: ``stored`` (on the device) are the model's weights until
        :meth:`release`. Values that are not parameters are copied.
        """
        for name, tensor in stored.items():
            if name in self.linears or name not in self._parameters:
                self.put({name: tensor})
                continue
            self._lent.add(name)
            module, attribute, _ = self._parameters[name]
            module._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)

    def release(self, names: Iterable[str] | None = None) -> None:
        """Release the linear layers' weights ``names``, or all with the lent ones: two other checkpoints are
        already in memory while this one's numbers are written.
        """
        for name in self.linears if names is None else names:
            if name in self.linears:
                self.linears[name].release()
        if names is None:
            for name in self._lent:
                module, attribute, parameter = self._parameters[name]
                module._parameters[attribute] = parameter
            self._lent.clear()


def _count_tokens(layer: nn.Module, plan: Plan) -> None:
    """Has ``plan`` know how many tokens the decoder layer ``layer`` is called with."""

    def begin(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else keywords.get("hidden_states")
        plan.tokens = hidden.shape[:-1].numel() if isinstance(hidden, Tensor) else None

    def end(*_: Any) -> None:
        plan.tokens = None

    layer.register_forward_pre_hook(begin, with_kwargs=True)
    layer.register_forward_hook(end, always_call=True)


def signature(folder: Path, tensors: dict[str, Tensor]) -> Signature:
    """The signature of the checkpoint in ``folder``, from the shapes and dtypes of ``tensors``."""
    described = sorted((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items())
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        read_config(folder)  # raises if it is unusable
        raise
    built = {name: value for name, value in config.items() if name not in PROVENANCE}
    return Signature(canonical_json(built), tuple(described))


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict(keep_vars=False).items())


def _learn(model: nn.Module, names: list[str]) -> dict[str, str]:
    """Module name -> file name for everything in ``model`` that is a plain copy.

    The markers are made again for the comparison, because those that the model was loaded from may share its
    memory, which transformers may have changed.
    """
    sources = {}
    for name, tensor in _state(model):
        number = marked(tensor)
        if 0 <= number < len(names) and torch.equal(marker(number, tensor.shape), tensor):
            sources[name] = names[number]
    return sources
