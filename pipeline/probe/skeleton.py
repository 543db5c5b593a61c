"""A model whose weights are not there: built, checked and walked without reading them.

Every tensor of the checkpoint's files is represented by a stand-in of its shape that takes four bytes (one number,
all strides zero). transformers loads the stand-ins as it loads weights: it maps file names to module names, ties
what is tied, and says what is missing, superfluous or misshapen. Where each ended up is read off its address. A
module can then be *filled* with its real weights, in float32 on the device, and *emptied* again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.probe.layers import replace_module
from pipeline.probe.loading import (
    StoredWeights,
    build_model,
    read_config,
    read_file,
    refuse_non_finite,
    refuse_other_dtypes,
)
from pipeline.suites.files import assigned_tensors


@dataclass(frozen=True)
class WeightIndex:
    """Which file of a checkpoint holds which tensor."""

    folder: Path
    file_of: dict[str, Path]
    """By the tensor's name in the files."""
    outlines: dict[str, Tensor]
    """Shape and dtype by the tensor's name: tensors on the meta device, which hold nothing."""

    @classmethod
    def of(cls, folder: Path) -> WeightIndex:
        """Reads names and shapes only. ``CheckpointError`` where a file cannot be read."""
        file_of: dict[str, Path] = {}
        outlines: dict[str, Tensor] = {}
        for file, names in assigned_tensors(folder).items():
            for name, tensor in read_file(file, names).items():  # memory-mapped: nothing is read
                file_of[name], outlines[name] = file, torch.empty_like(tensor, device="meta")
        if not outlines:
            raise CheckpointError(f"the weight files in {folder} hold no tensors")
        refuse_other_dtypes(outlines)
        return cls(folder, file_of, outlines)

    @property
    def elements(self) -> int:
        """Of all tensors."""
        return sum(outline.numel() for outline in self.outlines.values())

    def by_file(self, names: Iterable[str]) -> dict[Path, list[str]]:
        """Which of ``names`` each file holds."""
        wanted: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            wanted[self.file_of[name]].append(name)
        return wanted

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors as stored, on the CPU, checked for NaN and Inf.

        They are views of files mapped for this call: a mapping that stayed would count as memory in use.
        """
        tensors: dict[str, Tensor] = {}
        for file, wanted in self.by_file(names).items():
            tensors |= read_file(file, wanted)
        refuse_non_finite(tensors)
        return tensors


@dataclass(frozen=True)
class HollowModel:
    """A model of stand-ins, on the CPU in eval mode."""

    model: nn.Module
    stored: dict[str, str]
    """Which tensor of the files each parameter is, by its dotted path; tied ones under every path."""
    stand_ins: dict[str, Tensor]
    """By the tensor's name in the files. They must live as long as the model: their addresses are their names."""

    @classmethod
    def of(cls, folder: Path, index: WeightIndex) -> HollowModel:
        """Of the checkpoint in ``folder``. ``CheckpointError`` where a parameter is no stored tensor as it is."""
        stand_ins = {name: _stand_in(outline) for name, outline in index.outlines.items()}
        by_address = {tensor.data_ptr(): name for name, tensor in stand_ins.items()}
        model = build_model(read_config(folder), StoredWeights(stand_ins, "", torch.float32))
        stored = {
            path: by_address.get(parameter.data_ptr(), "")
            for path, parameter in model.named_parameters(remove_duplicate=False)
        }
        assembled = [path for path in model.state_dict() if not stored.get(path)]  # buffers are no stand-ins
        if assembled:
            raise refuse_assembled(model, assembled)
        return cls(model, stored, stand_ins)


def _stand_in(outline: Tensor) -> Tensor:
    """Of the shape of ``outline``, in float32; integers stay what they are, for the model to be refused."""
    dtype = torch.float32 if outline.is_floating_point() else outline.dtype
    return torch.zeros((), dtype=dtype).expand(outline.shape)


def refuse_assembled(model: nn.Module, paths: list[str]) -> CheckpointError:
    """The error for a model whose parameters at ``paths`` (none: some) are no plain copies of stored tensors."""
    shown = ", ".join(paths[:3]) or "some of its weights"
    return CheckpointError(
        f"{type(model).__name__} cannot be walked layer by layer: {shown} are put together from several stored "
        "tensors; it has to fit as a whole (run without --stream)"
    )


class Skeleton:
    """A model of stand-ins, on ``device`` but for its weights."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.index = WeightIndex.of(folder)
        self.device = device
        hollow = HollowModel.of(folder, self.index)
        self.model, self._stored, self._stand_ins = hollow.model, hollow.stored, hollow.stand_ins
        for name, buffer in self.model.named_buffers():
            parent, _, leaf = name.rpartition(".")
            self.model.get_submodule(parent)._buffers[leaf] = buffer.to(device)

    def paths(self, module: str = "") -> list[str]:
        """Dotted paths of the parameters of ``module`` (a dotted path; empty: of the whole model)."""
        return [path for path in self._stored if not module or path.startswith(f"{module}.")]

    def read(self, paths: Iterable[str]) -> dict[str, Tensor]:
        """The stored tensors of the parameters at ``paths``, by path: for :meth:`fill`, from any thread.

        Copies: what is read here is in memory, so that a thread that reads ahead has really done so.
        """
        wanted = {path: self._stored[path] for path in paths}
        tensors = self.index.read(dict.fromkeys(wanted.values()))
        return {path: tensors[name].clone() for path, name in wanted.items()}

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Puts real weights, upcast to float32, in the place of the stand-ins at their paths."""
        filled: dict[str, nn.Parameter] = {}
        for path, tensor in tensors.items():
            name = self._stored[path]
            if name not in filled:  # tied weights stay one tensor
                filled[name] = _parameter(tensor.to(self.device).to(torch.float32))
            replace_module(self.model, path, filled[name])  # type: ignore[arg-type]

    def empty(self, paths: Iterable[str]) -> None:
        """Puts the stand-ins back at ``paths``."""
        for path in paths:
            replace_module(self.model, path, _parameter(self._stand_ins[self._stored[path]]))  # type: ignore[arg-type]


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
