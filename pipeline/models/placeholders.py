"""A model without weights: built and checked without reading them.

Every tensor of the checkpoint's files is represented by a placeholder of its shape. transformers loads the
placeholders as it loads weights: it maps file names to module names, ties what is tied, and says what is missing,
superfluous or misshapen.

The elements of a placeholder, its *marker*, encode the tensor and the position. A matrix stores little more than one
row: each row begins two elements after the one before. Its values show where it or a copy of it ended up. No two
placeholders are equal, so none is tied that the files hold separately.
A placeholder that was changed during loading shows that the weights would be changed: such a model is measured as a
whole.
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
_ROW_STRIDE = 2  # with 1 a matrix would equal its transpose


@dataclass(frozen=True)
class WeightIndex:
    """Index of a checkpoint's tensors."""

    folder: Path
    file_of: dict[str, Path]
    """Keyed by the tensor's name in the files."""
    outlines: dict[str, Tensor]
    """Tensor's name -> meta tensor with its shape and dtype."""

    @classmethod
    def of(cls, folder: Path) -> WeightIndex:
        """Read names and shapes only. Raises CheckpointError if a file cannot be read."""
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
        """Number of elements of all tensors."""
        return sum(outline.numel() for outline in self.outlines.values())

    def by_file(self, names: Iterable[str]) -> dict[Path, list[str]]:
        """File -> those of ``names`` that it holds."""
        wanted: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            wanted[self.file_of[name]].append(name)
        return wanted


@dataclass(frozen=True)
class PlaceholderModel:
    """A model of placeholders, on the CPU in eval mode."""

    model: nn.Module
    stored: dict[str, str]
    """Dotted path of each parameter and persistent buffer -> tensor of the files; tied ones under every path."""
    placeholders: dict[str, Tensor]
    """Keyed by the tensor's name in the files."""

    @classmethod
    def of(cls, folder: Path, index: WeightIndex) -> PlaceholderModel:
        """Make the model of ``folder``. Raises CheckpointError if a parameter is not an unchanged stored tensor."""
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
                linear_sites(model)  # an unsupported architecture is the better reason
                raise refuse_assembled(model, [path])
            stored[path] = found
        return cls(model, stored, placeholders)


def marker(number: int, shape: torch.Size) -> Tensor:
    """float32 of ``shape``, exact integers below 2^24 for up to 16,000 tensors."""
    places = torch.arange(shape.numel(), dtype=torch.int32).remainder_(_PERIOD)
    return places.add_(number * 1000).to(torch.float32).view(shape)


def marked(tensor: Tensor) -> int:
    """The number of the marker that ``tensor`` may be; -1 if none."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return -1
    return int(tensor.flatten()[0].item()) // 1000


def _placeholder(number: int, outline: Tensor) -> Tensor:
    """Placeholder of tensor ``number`` of the files; integers stay integers, so that the model is refused."""
    if not outline.is_floating_point():
        return torch.zeros((), dtype=outline.dtype).expand(outline.shape)
    if outline.dim() < 2 or not outline.numel():
        return marker(number, outline.shape)
    strides = [1, _ROW_STRIDE]
    for size in outline.shape[:0:-1][1:]:
        strides.append(strides[-1] * size)
    return marker(number, _span(outline)).as_strided(outline.shape, strides[::-1])


def _span(outline: Tensor) -> torch.Size:
    """What the placeholder of a matrix stores."""
    return torch.Size([outline.shape[-1] + _ROW_STRIDE * (outline.shape[:-1].numel() - 1)])


def _stands_for(tensor: Tensor, placeholder: Tensor, number: int) -> bool:
    """Whether ``tensor`` of a loaded model is the unchanged ``placeholder`` ``number`` or a full copy of it."""
    if tensor.shape != placeholder.shape:
        return False
    same = tensor.data_ptr() == placeholder.data_ptr() and tensor.stride() == placeholder.stride()
    if not tensor.is_floating_point():
        return same
    if tensor.dim() < 2:
        return torch.equal(tensor, marker(number, tensor.shape))
    if same:  # a billion values need not be compared
        return torch.equal(tensor.as_strided(_span(tensor), (1,)), marker(number, _span(tensor)))
    return torch.equal(tensor, _placeholder(number, placeholder))


def refuse_assembled(model: nn.Module, paths: list[str]) -> CheckpointError:
    """Make the error for a model whose parameters at ``paths`` (none: some) are not plain copies of stored tensors."""
    shown = ", ".join(paths[:3]) or "some of its weights"
    return CheckpointError(
        f"{type(model).__name__} cannot be walked layer by layer: {shown} are not as they are stored (put together, "
        "or changed while they are loaded); it has to fit as a whole (run without --stream)"
    )


def put(model: nn.Module, path: str, tensor: Tensor) -> None:
    """Set ``tensor`` as the parameter or buffer at the dotted ``path`` of ``model``."""
    parent_path, _, leaf = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if leaf in parent._buffers:
        parent._buffers[leaf] = tensor.detach()
    else:
        setattr(parent, leaf, tensor if isinstance(tensor, nn.Parameter) else _parameter(tensor))


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
