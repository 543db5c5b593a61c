"""Sources of weights: files, whole or one decoder layer at a time, or a model in memory.

One layer at a time. While a layer computes, the next one is read by a thread (into pinned memory and copied to the GPU
on a stream of its own, where there is one); after the computation the layer's weights are released, and reading the
layer after the next starts. The GPU thus holds two layers as stored, embeddings and head, and the biases and norms
of all layers (0.2 MB a layer of width 4096); the host holds the buffers of the reader. The passes are those of a
whole model: the same kernels on the same chunks in the same order, hence the same numbers bit for bit.

Waiting for a layer before the one after the next is read is what bounds the memory: launches run far ahead of a GPU,
and reading from the page cache is faster than computing. It costs the GPU the time of one launch per layer.

If the next layer does not fit beside the current one, it and later ones are read after the layer before is
released, and a note says so: the same numbers, later. If it still does not fit, a smaller chunk cannot help (no
chunk data is alive between layers), so the checkpoint fails with its own error.

Measured on an H200, Pythia-6.9b's shape, 16 batches of 4 x 512 tokens, three variants in split: 5,804 tokens/s and 12.5
GiB, against 6,206 and 24.1 GiB as a whole once that is loaded, which takes 10 s; equal numbers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.base.errors import InsufficientMemoryError
from pipeline.models.loading import read_config
from pipeline.models.out_of_memory import room_for
from pipeline.models.placeholders import WeightIndex
from pipeline.models.template import ModelTemplate, Signature, signature
from pipeline.models.variant_linear import Plan
from pipeline.probe.reading import DeviceWeights, Reader
from pipeline.suites import Unchanged

ADVICE = "use fewer workers per GPU, fewer variants or batches, or a shorter --seq-len"
NOT_AHEAD = "GPU out of memory: layers read one after the other instead of ahead"


@dataclass(frozen=True)
class Filled:
    """A filled template and its layers."""

    template: ModelTemplate
    layers: Iterable[nn.Module]
    """The decoder layers in order; can be iterated repeatedly."""
    one_by_one: bool
    """Whether a layer holds its weights only while it is the current one of ``layers``."""
    notes: list[str] = field(default_factory=list)
    """Notes on deviations from the plan while iterating; grows."""


class Weights(Protocol):
    """The weights to measure, from any source."""

    @property
    def config(self) -> Any:
        """The model's configuration."""

    @property
    def signature(self) -> Signature:
        """Weights with equal signatures share a template."""

    def template(self, plan: Plan, device: torch.device) -> ModelTemplate:
        """A template for weights like these."""

    def fill(self, template: ModelTemplate) -> Filled:
        """Fill ``template`` with the weights."""


class FileWeights(Weights, Protocol):
    """The weights of a checkpoint's files."""

    @property
    def files(self) -> Unchanged:
        """The files' metadata before anything was read."""

    @property
    def load_s(self) -> float:
        """Seconds until the weights were ready to be measured."""


class WholeWeights:
    """All weights on the device."""

    def __init__(self, folder: Path, weights: DeviceWeights) -> None:
        self._folder, self._weights = folder, weights
        self.files, self.load_s = weights.files, weights.load_s

    @property
    def config(self) -> Any:
        """Configuration in the folder."""
        return read_config(self._folder)

    @property
    def signature(self) -> Signature:
        """Signature of the tensors."""
        return signature(self._folder, self._weights.tensors)

    def template(self, plan: Plan, device: torch.device) -> ModelTemplate:
        """A template made with markers."""
        return ModelTemplate.learned(self._folder, self._weights.tensors, plan, device)

    def fill(self, template: ModelTemplate) -> Filled:
        """Fill all weights at once."""
        self._weights.use(template.device)
        template.fill(self._weights.tensors)
        return Filled(template, template.layers, one_by_one=False)


class LayerWeights:
    """Weights in their files, read layer by layer with ``reader``."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        start = time.perf_counter()
        with Unchanged(folder) as self.files:
            self._folder, self._index, self._reader = folder, WeightIndex.of(folder), reader
        self.load_s = time.perf_counter() - start

    @property
    def config(self) -> Any:
        """Configuration in the folder."""
        return read_config(self._folder)

    @property
    def signature(self) -> Signature:
        """Signature from the files' headers."""
        return signature(self._folder, self._index.outlines)

    def template(self, plan: Plan, device: torch.device) -> ModelTemplate:
        """A template made with placeholders."""
        return ModelTemplate.hollow(self._folder, self._index, plan, device)

    def fill(self, template: ModelTemplate) -> Filled:
        """Fill the weights outside the layers at once, and each layer when it is current."""
        outside = template.sources()
        with room_for("the weights outside of the layers", ADVICE):
            stored = self._reader.read_some(self._index, set(outside.values()))
        template.put({name: stored[key] for name, key in outside.items()})
        _wait(template.device)
        layers = _Layers(template, self._index, self._reader)
        return Filled(template, layers, one_by_one=True, notes=layers.notes)


class _Layers:
    """The decoder layers of ``template``, each filled while it is current."""

    def __init__(self, template: ModelTemplate, index: WeightIndex, reader: Reader) -> None:
        self._template, self._index, self._reader = template, index, reader
        self.notes: list[str] = []
        """Filled once a layer did not fit beside the one before."""

    def __iter__(self) -> Iterator[nn.Module]:
        layers, template = self._template.layers, self._template
        with ThreadPoolExecutor(1, thread_name_prefix="layers") as thread:
            following: Future[dict[str, Tensor]] | None = thread.submit(self._read, 0)
            for index, layer in enumerate(layers):
                stored = self._ahead(following, first=index == 0)
                following = None  # also drops an error and the weights that were read before it
                if stored is None:
                    gc.collect()
                    stored = self._read(index)
                if index + 1 < len(layers) and not self.notes:
                    following = thread.submit(self._read, index + 1)
                template.put(stored)
                try:
                    yield layer
                finally:
                    # The reader's stream reuses freed memory at once, so nothing may still read from it.
                    _wait(template.device)
                    template.release(stored)
                    stored.clear()

    def _ahead(self, following: Future[dict[str, Tensor]] | None, *, first: bool) -> dict[str, Tensor] | None:
        """The prefetched weights; None if nothing was prefetched or it did not fit beside the layer before."""
        try:
            return None if following is None else following.result()
        except InsufficientMemoryError:
            if first:  # nothing else was loaded
                raise
        self.notes.append(NOT_AHEAD)
        return None

    def _read(self, layer: int) -> dict[str, Tensor]:
        """The weights of layer ``layer`` as stored, on the device, by their names in the model."""
        sources = self._template.sources(layer)
        with room_for(f"the weights of layer {layer}", ADVICE):
            stored = self._reader.read_some(self._index, set(sources.values()))
        return {name: stored[key] for name, key in sources.items()}


def _wait(device: torch.device) -> None:
    """Wait until all launches of this thread on ``device`` are done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
