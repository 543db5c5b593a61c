"""The weights of calibrated variants: as stored, until they are encoded from what their layers receive.

Legend: C = calibrated variants, R = rows (tokens) of each, I = in_features, O = out_features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.models.variant_linear import Plan, ProbeLinear
from pipeline.probe.layer_inputs import LayerInputs
from pipeline.quantize import Encoded, Quantizer, decoded


class CalibratedWeights:
    """The weights of one decoder layer under every calibrated variant of a plan."""

    def __init__(self, plan: Plan, config: Mapping[str, Any]) -> None:
        """``config``: the model's (config.json)."""
        self._plan, self._config = plan, config
        self.variants = [index for index, variant in enumerate(plan.variants) if variant.needs]
        """Indices of the calibrated ones."""
        self._weights: dict[str, Tensor] = {}
        """Layer -> float32 (C, O, I): the weights of its products now."""

    def clear(self) -> None:
        """Drops the values; what was encoded stays in the plan."""
        self._weights.clear()

    def undo(self, linears: list[ProbeLinear]) -> None:
        """Has ``linears`` as stored again."""
        self.clear()
        for linear in linears:
            self._plan.calibrated.pop(linear.name, None)
            self._plan.outcomes.pop(linear.name, None)

    def encode(self, readers: list[ProbeLinear], inputs: list[LayerInputs]) -> None:
        """Encodes layers that are called with one tensor."""
        weights = {linear.name: linear.float_weight() for linear in readers}
        config = self._config
        for index, received in enumerate(inputs):
            for quantizer, linears in self._by_quantizer(readers, self.variants[index]).items():
                given = {linear.name: weights[linear.name] for linear in linears}
                calibration = received.calibration(quantizer.needs)
                encoded = self._plan.backend.encode(quantizer, given, calibration, config)
                for linear in linears:
                    self._keep(linear, index, encoded[linear.name])

    def _by_quantizer(self, readers: list[ProbeLinear], variant: int) -> dict[Quantizer, list[ProbeLinear]]:
        """Linear layers that are calibrated under ``variant``."""
        found: dict[Quantizer, list[ProbeLinear]] = {}
        for linear in readers:
            quantizer = self._quantizer_of(linear)(variant)
            if quantizer is not None and quantizer.needs:
                found.setdefault(quantizer, []).append(linear)
        return found

    def _keep(self, linear: ProbeLinear, index: int, encoded: Encoded) -> None:
        variant, slot = self._plan.variants[self.variants[index]], linear.slots[self.variants[index]]
        quantizer = linear.packing.quantizers[slot]
        assert quantizer is not None
        self._plan.calibrated.setdefault(linear.name, {})[slot] = encoded
        if encoded.outcome is not None:
            self._plan.outcomes.setdefault(linear.name, {})[variant] = encoded.outcome
        self.of(linear)[index] = decoded(quantizer, encoded, linear.float_weight())

    def add(self, readers: list[ProbeLinear], inputs: list[LayerInputs], rows_CRI: Tensor) -> None:
        """Takes the rows of a chunk that ``readers`` are called with."""
        filled = readers[0].filled or [rows_CRI.shape[1]] * len(inputs)
        for received, variant, rows_RI, count in zip(inputs, self.variants, rows_CRI, filled, strict=True):
            quantizers = (self._quantizer_of(linear)(variant) for linear in readers)
            needs = [quantizer.needs for quantizer in quantizers if quantizer is not None]
            received.add(rows_RI[:count], frozenset().union(*needs))

    def before_the_first_token(self, linear: ProbeLinear) -> list[LayerInputs]:
        """Empty inputs of ``linear``, by calibrated variant."""
        weight = linear.stored_weight()
        return [LayerInputs(linear.in_features, weight.device, self._plan.backend) for _ in self.variants]

    def of(self, linear: ProbeLinear) -> Tensor:
        """float32 (C, O, I): quantized if possible without inputs or done already, else as stored."""
        if linear.name not in self._weights:
            weight = linear.float_weight()
            encoded = self._plan.calibrated.get(linear.name, {})
            values = []
            for variant in self.variants:
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

    def is_wanted(self, linear: ProbeLinear) -> bool:
        """Whether a variant's quantizer for ``linear`` needs its inputs."""
        return any(quantizer is not None and quantizer.needs for quantizer in linear.packing.quantizers)
