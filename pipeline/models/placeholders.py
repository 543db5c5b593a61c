"""A model whose weights are not there: built and checked without reading them.

Every tensor of the checkpoint's files is represented by a placeholder of its shape. transformers loads the
placeholders as it loads weights: it maps file names to module names, ties what is tied, and says what is missing,
superfluous or misshapen.

The elements of a placeholder, its *marker*, say which tensor and which place of it they are. Of a matrix one row is
there, which stands for all (its stride from row to row is zero), so where a matrix ended up is read off its address and
strides; a vector is whole, so that a copy of it is known, too. No two placeholders are equal, hence none is tied that
the files hold apart. One that was changed while it was loaded stands for weights that would be: such a model is
measured as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError
from pipeline.models.linear_layers import linear_sites
from pipeline.models.loading import StoredWeights, build_model, read_config, read_file, refuse_other_dtypes
from pipeline.suites.checkpoint_files import assigned_tensors

_PERIOD = 997  # a prime: no transpose or reshape of a marker looks like the marker


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
        """Elements of all tensors."""
        return sum(outline.numel() for outline in self.outlines.values())

    def by_file(self, names: Iterable[str]) -> dict[Path, list[str]]:
        """Which of ``names`` each file holds."""
        wanted: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            wanted[self.file_of[name]].append(name)
        return wanted


@dataclass(frozen=True)
class PlaceholderModel:
    """A model of placeholders, on the CPU in eval mode."""

    model: nn.Module
    stored: dict[str, str]
    """Which tensor of the files each parameter and persistent buffer is, by its dotted path; tied ones under every
    path."""
    placeholders: dict[str, Tensor]
    """By the tensor's name in the files."""

    @classmethod
    def of(cls, folder: Path, index: WeightIndex) -> PlaceholderModel:
        """For the checkpoint in ``folder``. ``CheckpointError`` where a parameter is no stored tensor as it is."""
        numbers = {name: number for number, name in enumerate(index.outlines)}
        placeholders = {
            name: _placeholder(numbers[name], outline) for name, outline in index.outlines.items()
        }
        model = build_model(read_config(folder), StoredWeights(placeholders, "", torch.float32))
        by_address = {tensor.data_ptr(): name for name, tensor in placeholders.items()}
        by_number = dict(enumerate(placeholders))
        stored: dict[str, str] = {}
        for path, tensor in model.state_dict().items():
            found = by_address.get(tensor.data_ptr(), by_number.get(marked(tensor), ""))
            if not found or not _stands_for(tensor, placeholders[found], numbers[found]):
                linear_sites(model)  # an architecture that no way measures has the better reason
                raise refuse_assembled(model, [path])
            stored[path] = found
        return cls(model, stored, placeholders)


def marker(number: int, shape: torch.Size) -> Tensor:
    """float32 of ``shape``, exact integers below 2^24 for up to 16,000 tensors."""
    places = torch.arange(shape.numel(), dtype=torch.int32).remainder_(_PERIOD)
    return places.add_(number * 1000).to(torch.float32).view(shape)


def marked(tensor: Tensor) -> int:
    """The number of the marker that ``tensor`` may be; -1 where it is none."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return -1
    return int(tensor.flatten()[0].item()) // 1000


def _placeholder(number: int, outline: Tensor) -> Tensor:
    """For tensor ``number`` of the files; integers stay what they are, for the model to be refused."""
    if not outline.is_floating_point():
        return torch.zeros((), dtype=outline.dtype).expand(outline.shape)
    return marker(number, outline.shape[-1:]).expand(outline.shape)


def _stands_for(tensor: Tensor, placeholder: Tensor, number: int) -> bool:
    """Whether ``tensor`` of a loaded model is ``placeholder`` number ``number``, unchanged, or a copy of it all."""
    if tensor.shape != placeholder.shape:
        return False
    same = tensor.data_ptr() == placeholder.data_ptr() and tensor.stride() == placeholder.stride()
    if not tensor.is_floating_point():
        return same
    if tensor.dim() < 2:
        return torch.equal(tensor, marker(number, tensor.shape))
    row = tensor[(0,) * (tensor.dim() - 1)]
    return same and torch.equal(row, marker(number, row.shape))


def refuse_assembled(model: nn.Module, paths: list[str]) -> CheckpointError:
    """The error for a model whose parameters at ``paths`` (none: some) are no plain copies of stored tensors."""
    shown = ", ".join(paths[:3]) or "some of its weights"
    return CheckpointError(
        f"{type(model).__name__} cannot be walked layer by layer: {shown} are not as they are stored (put together, "
        "or changed while they are loaded); it has to fit as a whole (run without --stream)"
    )


def put(model: nn.Module, path: str, tensor: Tensor) -> None:
    """Makes ``tensor`` the parameter or buffer at the dotted ``path`` of ``model``."""
    parent_path, _, leaf = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if leaf in parent._buffers:
        parent._buffers[leaf] = tensor.detach()
    else:
        setattr(parent, leaf, tensor if isinstance(tensor, nn.Parameter) else _parameter(tensor))


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
