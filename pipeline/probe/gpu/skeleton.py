"""A model without its weights, kept between checkpoints, and where each of its weights lies in their files.

transformers maps a file's names to a module's (``embed_out.weight`` becomes ``lm_head.weight``) while it loads, and
may also transpose, split or join tensors. The mapping is therefore learned, not guessed: once per skeleton the model is
loaded by the ordinary path from *markers*, tensors whose every element says which tensor and which place of it this is.
A parameter that comes out holding marker i untouched is a copy of tensor i for every checkpoint of the same names,
shapes and dtypes. Where one does not, every checkpoint goes through transformers, and the probe notes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline.probe.gpu.linear import Plan, ProbeLinear
from pipeline.probe.layers import linear_sites, replace_module
from pipeline.probe.loading import StoredWeights, build_model, read_config
from pipeline.spec import canonical_json

_PROVENANCE = {"_name_or_path", "dtype", "torch_dtype", "transformers_version"}
"""Entries of a config.json that say who wrote it and how the file is stored, not what the model is. A skeleton takes
longer to make than a checkpoint to measure, so one must not be made anew for another spelling of the same."""
_PERIOD = 997  # a prime: no transpose or reshape of a marker looks like the marker


def _marker(index: int, shape: torch.Size) -> Tensor:
    """float32 of ``shape``, exact integers below 2^24 for up to 16,000 tensors."""
    places = torch.arange(shape.numel(), dtype=torch.int32).remainder_(_PERIOD)
    return places.add_(index * 1000).to(torch.float32).view(shape)


@dataclass(frozen=True)
class Signature:
    """What two checkpoints must share to share a skeleton."""

    config: str
    """The configuration as canonical JSON."""
    tensors: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]


class Skeleton:
    """A causal language model in eval mode on the device, every quantizable layer a :class:`ProbeLinear`."""

    def __init__(self, folder: Path, tensors: dict[str, Tensor], plan: Plan, device: torch.device) -> None:
        self.config = read_config(folder)
        self.device = device
        self.signature = signature(folder, tensors)
        names = list(tensors)
        markers = {
            name: _marker(index, tensors[name].shape)
            if tensors[name].is_floating_point()
            else torch.zeros(tensors[name].shape, dtype=tensors[name].dtype)
            for index, name in enumerate(names)
        }
        model = build_model(self.config, StoredWeights(markers, "", torch.float32))
        self._sources: dict[str, str] | None = _learn(model, markers, names)
        self.linears: list[ProbeLinear] = []
        self._direct = dict(_state(model))  # what is copied into the model; the linears hold theirs apart
        for site in linear_sites(model):
            weight_name = f"{site.name}.weight"
            linear = ProbeLinear(site, weight_name, isinstance(site.module, Conv1D), plan)
            replace_module(model, site.name, linear)
            self.linears.append(linear)
            del self._direct[weight_name]
        self.model: Any = model.to(device)
        self._direct = {name: tensor for name, tensor in _state(self.model) if name in self._direct}

    @property
    def notes(self) -> tuple[str, ...]:
        if self._sources is not None:
            return ()
        return (
            "weights are converted by transformers for every checkpoint: their layout differs from the files'",
        )

    @torch.inference_mode()
    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Puts the weights of one checkpoint (on the device, by the file's names) into the model."""
        if self._sources is None:
            on_cpu = StoredWeights(
                {name: tensor.cpu() for name, tensor in tensors.items()}, "", torch.float32
            )
            stored = {
                name: tensor.to(self.device) for name, tensor in _state(build_model(self.config, on_cpu))
            }
        else:
            stored = {name: tensors[key] for name, key in self._sources.items()}
        self._put(stored)

    @torch.inference_mode()
    def fill_from_model(self, state: Mapping[str, Tensor]) -> None:
        """Puts in weights by module name, rounded to the dtypes that the files store."""
        if self._sources is None:
            self._put({name: state[name].to(self.device) for name, _ in _state(self.model)})
            return
        dtypes = {name: dtype for name, _, dtype in self.signature.tensors}
        sources = self._sources.items()
        self._put({name: state[name].to(device=self.device, dtype=dtypes[key]) for name, key in sources})

    def _put(self, stored: dict[str, Tensor]) -> None:
        for name, target in self._direct.items():
            target.copy_(stored[name])
        for linear in self.linears:
            linear.stored = stored[linear.weight_name]

    def release(self) -> None:
        """Lets the checkpoint's weights go: while this one's numbers are written, two others are in memory already."""
        for linear in self.linears:
            linear.stored = None


def signature(folder: Path, tensors: dict[str, Tensor]) -> Signature:
    """The signature of the checkpoint in ``folder`` with ``tensors``."""
    described = sorted((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    built = {name: value for name, value in config.items() if name not in _PROVENANCE}
    return Signature(canonical_json(built), tuple(described))


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict(keep_vars=False).items())


def _learn(model: nn.Module, markers: dict[str, Tensor], names: list[str]) -> dict[str, str] | None:
    """Module name -> file name for everything in ``model``, or None where something is no plain copy."""
    sources = {}
    for name, tensor in _state(model):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return None
        index = int(tensor.flatten()[0].item()) // 1000
        if not 0 <= index < len(names) or not torch.equal(markers[names[index]], tensor):
            return None
        sources[name] = names[index]
    return sources
