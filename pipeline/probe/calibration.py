"""Calibrate a layer's quantizers on its inputs, with the layers before it quantized by the same variant.

Every variant that needs it has its own hidden states for the calibration tokens. The linear layers of a decoder layer
are encoded in the order in which its forward calls them: the forward runs up to one of them, its inputs are
collected over all chunks, the weight is encoded, and the next run uses it quantized. Layers with the same input
tensor (query, key and value) are collected in one run, because none changes the input of the others.

Where all tokens go at once and an earlier layer has shown which linear layers share a tensor, one run does: a weight
is encoded when its layer is called, and the run goes on with it. Where a layer turns out to be unlike those before, the
runs are made after all.

Legend: C = calibrated variants, N = sequences of a chunk, T = tokens, I = in_features, O = out_features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError
from pipeline.models.layer_walk import Walk
from pipeline.models.template import ModelTemplate
from pipeline.models.variant_linear import Plan, ProbeLinear
from pipeline.probe.calibrated_weights import CalibratedWeights
from pipeline.probe.forward import logits_of
from pipeline.probe.layer_inputs import LayerInputs

CHUNK_ROWS = 65_536
"""Rows (calibrated variants x tokens) of a chunk on a CPU; one sequence is the least."""
MEMORY_SHARE = 0.25
"""Share of a GPU's memory for the activations of a chunk within one layer."""


class _EnoughError(Exception):
    """Raised when a run has collected all inputs that it is for."""


class _UnlikeError(Exception):
    """The linear layers of a layer are not called as those of earlier ones were."""


class Calibrator:
    """Advances the calibration tokens through a filled template, ahead of the evaluation tokens."""

    def __init__(self, template: ModelTemplate, plan: Plan, tokens: Tensor, share: float = 1.0) -> None:
        """``tokens``: int64 (sequences, T), on the device. ``share``: of the usual chunk, where memory is short."""
        self._template, self._plan = template, plan
        self._weights = CalibratedWeights(plan, template.config.to_dict())
        self._variants = self._weights.variants
        count = len(self._variants)
        rows = int(share * _chunk_rows(template, tokens.device))
        self._parts = tokens.split(max(1, rows // (count * tokens.shape[1])))
        self._walk = Walk(template.model, template.layers)
        begun = [self._walk.begin(part.repeat(count, 1)) for part in self._parts]
        self._states, self._calls = [hidden for hidden, _ in begun], [calls for _, calls in begun]
        self._index = 0
        self._wanted: set[str] = set()
        """Layers that are not encoded yet."""
        self._readers: dict[str, ProbeLinear] = {}
        """Linear layers that are called with one tensor, found by the first chunk that reaches any."""
        self._read: set[str] = set()
        """The linear layers of the group that this chunk has reached."""
        self._are_known = False
        """Whether an earlier chunk has reached them."""
        self._inputs: list[LayerInputs] = []
        """Their inputs, one per calibrated variant."""
        self._source: Tensor | None = None
        self._sharing: dict[str, tuple[str, ...]] = {}
        """By a linear layer's name within its layer: those that are called with the same tensor, itself among them."""
        self._within: dict[str, str] = {}
        """By dotted name: that name, of the linear layers of this layer."""
        self._at_once: dict[str, ProbeLinear] | None = None
        """By that name, the linear layers of a layer that is done in one run; None while none is."""

    def advance(self, layer: nn.Module) -> None:
        """Encode the weights of ``layer``, the next one, and advance the calibration tokens through it."""
        linears = {name: part for name, part in layer.named_modules() if isinstance(part, ProbeLinear)}
        self._within = {linear.name: name for name, linear in linears.items()}
        calls = [call[self._index] for call in self._calls]

        def run(chunk: int) -> Tensor:
            return calls[chunk](layer, self._states[chunk])

        with self._instead():
            if len(self._parts) > 1 or not self._encode_at_once(linears, run):
                self._encode(list(linears.values()), run)
                for chunk in range(len(self._states)):
                    self._states[chunk] = run(chunk)
        self._index += 1

    def _encode_at_once(self, linears: dict[str, ProbeLinear], run: Callable[[int], Tensor]) -> bool:
        """Encodes and advances in one run; False, with all as it was, where the layer is unlike those before."""
        self._wanted = {linear.name for linear in linears.values() if self._weights.is_wanted(linear)}
        if not all(self._within[name] in self._sharing for name in self._wanted):
            return False
        self._at_once = linears
        try:
            state = run(0)
            for name in sorted(self._wanted):  # no token reaches the remaining ones
                self._encode_alone(linears[self._within[name]])
        except _UnlikeError:
            self._weights.undo(list(linears.values()))
            return False
        finally:
            self._at_once = self._source = None
        self._states[0] = state
        return True

    def finish(self) -> None:
        """Encode the output head's weight if a variant calibrates it."""
        head = next((each for each in self._template.linears.values() if each.is_head), None)
        if head is None:
            return

        def run(chunk: int) -> Tensor:
            folded = self._parts[chunk].repeat(len(self._variants), 1)
            found: Tensor = self._walk.finish(self._states[chunk], lambda model: logits_of(model, folded))
            return found

        with self._instead():
            self._encode([head], run)

    @contextmanager
    def _instead(self) -> Iterator[None]:
        """Context manager: layers multiply by the calibrated variants' weights and collect inputs."""
        self._plan.instead = self._product
        try:
            yield
        finally:
            self._plan.instead = None
            self._weights.clear()

    def _encode(self, linears: list[ProbeLinear], run: Callable[[int], Any]) -> None:
        """Encode ``linears`` in the order in which ``run`` calls them on a chunk."""
        by_name = {linear.name: linear for linear in linears}
        self._wanted = {linear.name for linear in linears if self._weights.is_wanted(linear)}
        while self._wanted:
            self._readers.clear()
            self._inputs = []
            for chunk in range(len(self._parts)):
                self._begin_chunk()
                with suppress(_EnoughError):
                    run(chunk)
            if self._readers:
                self._remember()
                self._weights.encode(list(self._readers.values()), self._inputs)
                self._wanted.difference_update(self._readers)
                continue
            for name in self._wanted:  # no token reaches the remaining ones
                self._encode_alone(by_name[name])
            self._wanted.clear()
        self._source = None
        self._inputs = []

    def _remember(self) -> None:
        """Which linear layers share a tensor."""
        names = tuple(self._within.get(name, name) for name in self._readers)
        self._sharing |= dict.fromkeys(names, names)

    def _begin_chunk(self) -> None:
        self._source = None
        self._are_known = bool(self._readers)
        self._read.clear()
        for inputs in self._inputs:
            inputs.begin()

    def _encode_alone(self, linear: ProbeLinear) -> None:
        """Encodes a layer that no token reaches."""
        self._weights.encode([linear], self._weights.before_the_first_token(linear))

    def _product(self, linear: ProbeLinear, x: Tensor) -> Tensor:
        """float32 (C * N, T, I), variants outermost -> (C * N, T, O)."""
        rows_CRI = linear.by_variant(x)
        if self._at_once is not None:
            self._encode_when_called(linear, x, rows_CRI, self._at_once)
        elif linear.name in self._wanted:
            self._collect(linear, x, rows_CRI)
        out_CRO = self._plan.backend.products(rows_CRI, self._weights.of(linear), linear.bias)
        return out_CRO.view(*x.shape[:-1], -1)

    def _encode_when_called(
        self, linear: ProbeLinear, x: Tensor, rows_CRI: Tensor, linears: dict[str, ProbeLinear]
    ) -> None:
        """Encodes ``linear`` and those that are to be called with the same ``x`` after it."""
        if linear.name not in self._wanted:
            if linear.name in self._readers and not self._is_source(x):
                raise _UnlikeError
            return
        readers = [linears[name] for name in self._sharing[self._within[linear.name]] if name in linears]
        if any(reader.name not in self._wanted for reader in readers):
            raise _UnlikeError
        self._source, self._readers = x, {reader.name: reader for reader in readers}
        inputs = self._weights.before_the_first_token(linear)
        self._weights.add(readers, inputs, rows_CRI)
        self._weights.encode(readers, inputs)
        self._wanted.difference_update(self._readers)

    def _is_source(self, x: Tensor) -> bool:
        return self._source is not None and (
            x.data_ptr() == self._source.data_ptr() and x.shape == self._source.shape
        )

    def _collect(self, linear: ProbeLinear, x: Tensor, rows_CRI: Tensor) -> None:
        """Adds the inputs of ``linear``; ends the run where they may depend on a layer that is not encoded yet.

        The first chunk that reaches any layer says which ones are called with one tensor. A mixture's experts, which
        not every chunk reaches, are left for a later run.
        """
        if not self._inputs:
            self._inputs = self._weights.before_the_first_token(linear)
        if self._are_known and linear.name not in self._readers:
            if len(self._read) < len(self._readers):
                return
            raise _EnoughError
        if self._source is None:
            self._source = x
        elif not self._is_source(x):
            if self._are_known and linear.name not in self._read:
                raise CheckpointError(
                    f"{linear.name} shares its input with other layers for some tokens only"
                )
            raise _EnoughError
        self._readers[linear.name] = linear
        self._read.add(linear.name)
        self._weights.add([linear], self._inputs, rows_CRI)
        if linear.is_head:
            raise _EnoughError  # nothing comes after it, and its product would be large


def _chunk_rows(template: ModelTemplate, device: torch.device) -> int:
    """Rows of a chunk: on a GPU as many as a share of its memory holds the activations of."""
    if device.type != "cuda":
        return CHUNK_ROWS
    widths = [
        linear.out_features + linear.in_features for linear in template.linears.values() if not linear.is_head
    ]
    row_bytes = 4 * 4 * max(widths)
    return int(MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory) // row_bytes
