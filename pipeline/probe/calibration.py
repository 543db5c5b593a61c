"""Calibrates a layer's quantizers on what the layer receives, its predecessors quantized by the same variant.

Every variant that needs it has its own hidden states for the calibration tokens. The linear layers of a decoder layer
are taken in the order in which its forward calls them: the forward is run up to one of them, the inputs are collected
over all chunks, the weight is encoded, and the next run sees it quantized. Layers that are called with the same tensor
(query, key and value) are collected in one run: none of them changes what the others receive. Products are float32.

Legend: C = calibrated variants, N = sequences of a chunk, T = tokens, I = in_features, O = out_features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.layer_walk import Walk
from pipeline.models.template import ModelTemplate
from pipeline.models.variant_linear import Plan, ProbeLinear
from pipeline.probe.forward import logits_of
from pipeline.quantize import Calibration, Need, Quantizer, decoded

CHUNK_ROWS = 65_536
"""Rows (calibrated variants x tokens) of a chunk; one sequence is the least."""


class _EnoughError(Exception):
    """Everything that was wanted of this run has been collected."""


@dataclass
class _Inputs:
    """What one linear layer receives under one variant."""

    quantizer: Quantizer
    n_rows: int
    rows: list[Tensor] | None
    moments: Tensor | None
    """float64 (I, I): the sum of x x^T."""

    @classmethod
    def begin(cls, quantizer: Quantizer, like: Tensor) -> _Inputs:
        """Before the first token. ``like``: (O, I), the weight."""
        features, wide, needs = like.shape[1], torch.float64, quantizer.needs
        rows = [like.new_empty(0, features)] if Need.INPUTS in needs else None
        moments = like.new_zeros(features, features, dtype=wide) if Need.SECOND_MOMENTS in needs else None
        return cls(quantizer, 0, rows, moments)

    def add(self, rows_RI: Tensor) -> None:
        self.n_rows += rows_RI.shape[0]
        if self.rows is not None:
            self.rows.append(rows_RI.clone())
        if self.moments is not None:
            wide = rows_RI.double()
            self.moments.addmm_(wide.T, wide)

    def calibration(self) -> Calibration:
        return Calibration(
            self.n_rows,
            None if self.rows is None else torch.cat(self.rows),
            None if self.moments is None else self.moments / max(1, self.n_rows),
        )


class Calibrator:
    """Goes through the layers of a filled template before the evaluation tokens do."""

    def __init__(self, template: ModelTemplate, plan: Plan, tokens: Tensor) -> None:
        """``tokens``: int64 (sequences, T), on the device."""
        self._template, self._plan = template, plan
        self._variants = [index for index, variant in enumerate(plan.variants) if variant.needs]
        count = len(self._variants)
        self._parts = tokens.split(max(1, CHUNK_ROWS // (count * tokens.shape[1])))
        self._walk = Walk(template.model, template.layers)
        begun = [self._walk.begin(part.repeat(count, 1)) for part in self._parts]
        self._states, self._calls = [hidden for hidden, _ in begun], [calls for _, calls in begun]
        self._index = 0
        self._weights: dict[str, Tensor] = {}
        """float32 (C, O, I) by layer: what its products are made of now."""
        self._wanted: set[str] = set()
        """Layers that have yet to be encoded."""
        self._collected: dict[str, list[_Inputs | None]] = {}
        """By layer, one per calibrated variant; None where that variant's quantizer needs nothing."""
        self._source: Tensor | None = None

    def advance(self, layer: nn.Module) -> None:
        """Encodes the weights of ``layer``, the next one, and takes the calibration tokens through it."""
        linears = [part for part in layer.modules() if isinstance(part, ProbeLinear)]
        calls = [call[self._index] for call in self._calls]

        def run(chunk: int) -> Tensor:
            return calls[chunk](layer, self._states[chunk])

        with self._instead():
            self._encode(linears, run)
            for chunk in range(len(self._states)):
                self._states[chunk] = run(chunk)
        self._index += 1

    def finish(self) -> None:
        """Encodes the output head's weight, where a variant calibrates it."""
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
        """Products are the calibrated variants', and inputs are collected."""
        self._plan.instead = self._product
        try:
            yield
        finally:
            self._plan.instead = None
            self._weights.clear()

    def _encode(self, linears: list[ProbeLinear], run: Callable[[int], Any]) -> None:
        """Encodes ``linears`` in the order in which ``run`` (of a chunk) calls them."""
        by_name = {linear.name: linear for linear in linears}
        self._wanted = {linear.name for linear in linears if self._needy(linear)}
        while self._wanted:
            self._collected.clear()
            for chunk in range(len(self._parts)):
                self._source = None
                with suppress(_EnoughError):
                    run(chunk)
            if not self._collected:  # no token reaches those that are left
                self._collected = {name: self._nothing_yet(by_name[name]) for name in self._wanted}
            for name, inputs in self._collected.items():
                self._encode_one(by_name[name], inputs)
            self._wanted.difference_update(self._collected)
        self._source = None
        self._collected.clear()

    def _encode_one(self, linear: ProbeLinear, inputs: list[_Inputs | None]) -> None:
        weight, encoded = linear.float_weight(), self._plan.calibrated.setdefault(linear.name, {})
        for index, given in enumerate(inputs):
            if given is None:
                continue
            variant, slot = self._plan.variants[self._variants[index]], linear.slots[self._variants[index]]
            encoded[slot] = self._plan.backend.encode(given.quantizer, weight, given.calibration())
            if (outcome := encoded[slot].outcome) is not None:
                self._plan.outcomes.setdefault(linear.name, {})[variant] = outcome
            self._weights_of(linear)[index] = decoded(given.quantizer, encoded[slot], weight)

    def _product(self, linear: ProbeLinear, x: Tensor) -> Tensor:
        """float32 (C * N, T, I), variants outermost -> (C * N, T, O)."""
        weights_COI = self._weights_of(linear)
        rows_CRI = x.reshape(len(self._variants), -1, x.shape[-1])
        if linear.name in self._wanted:
            self._collect(linear, x, rows_CRI)
        out_CRO = torch.bmm(rows_CRI, weights_COI.mT)
        if linear.bias is not None:
            out_CRO += linear.bias
        return out_CRO.view(*x.shape[:-1], -1)

    def _collect(self, linear: ProbeLinear, x: Tensor, rows_CRI: Tensor) -> None:
        """Adds the inputs of ``linear``; ends the run where they depend on a layer that is not encoded yet."""
        if self._source is None:
            self._source = x
        elif x.data_ptr() != self._source.data_ptr() or x.shape != self._source.shape:
            raise _EnoughError
        if linear.name not in self._collected:
            self._collected[linear.name] = self._nothing_yet(linear)
        for inputs, rows_RI in zip(self._collected[linear.name], rows_CRI, strict=True):
            if inputs is not None:
                inputs.add(rows_RI)

    def _nothing_yet(self, linear: ProbeLinear) -> list[_Inputs | None]:
        """What ``linear`` has received before the first token, by calibrated variant; None where that needs nothing."""
        weight = linear.float_weight()
        return [
            _Inputs.begin(quantizer, weight) if quantizer is not None and quantizer.needs else None
            for quantizer in map(self._quantizer_of(linear), self._variants)
        ]

    def _weights_of(self, linear: ProbeLinear) -> Tensor:
        """float32 (C, O, I): quantized where that needs nothing or has been done, else as stored."""
        if linear.name not in self._weights:
            weight = linear.float_weight()
            encoded = self._plan.calibrated.get(linear.name, {})
            values = []
            for variant in self._variants:
                quantizer = self._quantizer_of(linear)(variant)
                slot = linear.slots[variant]
                if quantizer is None or (quantizer.needs and slot not in encoded):
                    values.append(weight)
                else:
                    found = encoded[slot] if slot in encoded else quantizer.encode(weight)
                    values.append(decoded(quantizer, found, weight))
            self._weights[linear.name] = torch.stack(values)
        return self._weights[linear.name]

    def _quantizer_of(self, linear: ProbeLinear) -> Callable[[int], Quantizer | None]:
        packing = linear.packing
        return lambda variant: packing.quantizers[packing.slots[variant]]

    def _needy(self, linear: ProbeLinear) -> bool:
        """Whether a variant's quantizer for ``linear`` needs its inputs."""
        return any(quantizer is not None and quantizer.needs for quantizer in linear.packing.quantizers)
