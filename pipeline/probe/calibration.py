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
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError
from pipeline.models.layer_walk import Walk
from pipeline.models.template import ModelTemplate
from pipeline.models.variant_linear import Plan, ProbeLinear
from pipeline.probe.forward import logits_of
from pipeline.quantize import Calibration, Encoded, Need, Quantizer, decoded

CHUNK_ROWS = 65_536
"""Rows (calibrated variants x tokens) of a chunk; one sequence is the least."""


class _EnoughError(Exception):
    """Everything that was wanted of this run has been collected."""


class _Inputs:
    """What the linear layers that are called with one tensor receive under one variant."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self._features, self._device = in_features, device
        self._n_rows = 0
        self._rows: list[Tensor] = []
        self._sums: dict[Need, Tensor] = {}
        """float64: of x x^T, (I, I), and of abs(x), (I,)."""
        self._added: set[Need] = set()

    def begin(self) -> None:
        """The next rows are of another chunk."""
        self._added.clear()

    def add(self, rows_RI: Tensor, needs: frozenset[Need]) -> None:
        """Takes what ``needs`` names of the chunk's rows, where an earlier layer has not."""
        if not self._added:
            self._n_rows += rows_RI.shape[0]
        for need in needs - self._added:
            self._added.add(need)
            if need is Need.INPUTS:
                self._rows.append(rows_RI.clone())
            elif need is Need.SECOND_MOMENTS:
                wide = rows_RI.double()
                self._sum(need).addmm_(wide.T, wide)
            else:
                self._sum(need).add_(rows_RI.abs().sum(dim=0, dtype=torch.float64))

    def calibration(self, needs: frozenset[Need]) -> Calibration:
        no_rows = torch.empty(0, self._features, device=self._device)
        count = max(1, self._n_rows)
        return Calibration(
            self._n_rows,
            torch.cat([no_rows, *self._rows]) if Need.INPUTS in needs else None,
            self._sum(Need.SECOND_MOMENTS) / count if Need.SECOND_MOMENTS in needs else None,
            self._sum(Need.MAGNITUDES) / count if Need.MAGNITUDES in needs else None,
        )

    def _sum(self, need: Need) -> Tensor:
        if need not in self._sums:
            shape = (self._features,) * (2 if need is Need.SECOND_MOMENTS else 1)
            self._sums[need] = torch.zeros(shape, dtype=torch.float64, device=self._device)
        return self._sums[need]


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
        self._readers: dict[str, ProbeLinear] = {}
        """Those that are called with one tensor, by the first chunk that reaches any."""
        self._read: set[str] = set()
        """Of them, those that this chunk has reached."""
        self._are_known = False
        """Whether an earlier chunk has reached them."""
        self._inputs: list[_Inputs] = []
        """What they receive, one per calibrated variant."""
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
            self._readers.clear()
            self._inputs = []
            for chunk in range(len(self._parts)):
                self._begin_chunk()
                with suppress(_EnoughError):
                    run(chunk)
            if self._readers:
                self._encode_together(list(self._readers.values()), self._inputs)
                self._wanted.difference_update(self._readers)
                continue
            for name in self._wanted:  # no token reaches those that are left
                self._encode_together([by_name[name]], self._nothing_yet(by_name[name]))
            self._wanted.clear()
        self._source = None
        self._inputs = []

    def _begin_chunk(self) -> None:
        self._source = None
        self._are_known = bool(self._readers)
        self._read.clear()
        for inputs in self._inputs:
            inputs.begin()

    def _encode_together(self, readers: list[ProbeLinear], inputs: list[_Inputs]) -> None:
        """Encodes layers that are called with one tensor."""
        weights = {linear.name: linear.float_weight() for linear in readers}
        config = self._template.config.to_dict()
        for index, received in enumerate(inputs):
            for quantizer, linears in self._by_quantizer(readers, self._variants[index]).items():
                given = {linear.name: weights[linear.name] for linear in linears}
                calibration = received.calibration(quantizer.needs)
                encoded = self._plan.backend.encode(quantizer, given, calibration, config)
                for linear in linears:
                    self._keep(linear, index, encoded[linear.name])

    def _by_quantizer(self, readers: list[ProbeLinear], variant: int) -> dict[Quantizer, list[ProbeLinear]]:
        """Those that are calibrated under ``variant``."""
        found: dict[Quantizer, list[ProbeLinear]] = {}
        for linear in readers:
            quantizer = self._quantizer_of(linear)(variant)
            if quantizer is not None and quantizer.needs:
                found.setdefault(quantizer, []).append(linear)
        return found

    def _keep(self, linear: ProbeLinear, index: int, encoded: Encoded) -> None:
        variant, slot = self._plan.variants[self._variants[index]], linear.slots[self._variants[index]]
        quantizer = linear.packing.quantizers[slot]
        assert quantizer is not None
        self._plan.calibrated.setdefault(linear.name, {})[slot] = encoded
        if encoded.outcome is not None:
            self._plan.outcomes.setdefault(linear.name, {})[variant] = encoded.outcome
        self._weights_of(linear)[index] = decoded(quantizer, encoded, linear.float_weight())

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
        """Adds the inputs of ``linear``; ends the run where they may depend on a layer that is not encoded yet.

        The first chunk that reaches any layer says which ones are called with one tensor. A mixture's experts, which
        not every chunk reaches, are left for a later run.
        """
        if not self._inputs:
            self._inputs = self._nothing_yet(linear)
        if self._are_known and linear.name not in self._readers:
            if len(self._read) < len(self._readers):
                return
            raise _EnoughError
        if self._source is None:
            self._source = x
        elif x.data_ptr() != self._source.data_ptr() or x.shape != self._source.shape:
            if self._are_known and linear.name not in self._read:
                raise CheckpointError(
                    f"{linear.name} shares its input with other layers for some tokens only"
                )
            raise _EnoughError
        self._readers[linear.name] = linear
        self._read.add(linear.name)
        for inputs, variant, rows_RI in zip(self._inputs, self._variants, rows_CRI, strict=True):
            quantizer = self._quantizer_of(linear)(variant)
            if quantizer is not None:
                inputs.add(rows_RI, quantizer.needs)

    def _nothing_yet(self, linear: ProbeLinear) -> list[_Inputs]:
        """What ``linear`` has received before the first token, by calibrated variant."""
        weight = linear.stored_weight()
        return [_Inputs(linear.in_features, weight.device) for _ in self._variants]

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
