"""The quantizable layers of a template: stored weights in, products of all variants out.

A layer keeps the weight as stored, a view of the checkpoint's file, and packs it for all variants at once when it is
used. How it is packed and multiplied is the backend's (``probe.backend``).

Legend: V = variants, R = rows per variant, I = in_features, O = out_features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.models.linear_layers import LinearSite, WeightFacts
from pipeline.quantize import CalibrationOutcome, Encoded, Quantizer, Variant
from pipeline.quantize.control_variant import ControlVariant
from pipeline.quantize.variant import require_models, require_sites
from pipeline.spec import ProbeSpec


@dataclass(frozen=True)
class Packing:
    """How the variants share the packed weights of a layer."""

    quantizers: tuple[Quantizer | None, ...]
    """Of each packed weight; None = the stored values."""
    slots: tuple[int, ...]
    """Which packed weight each variant uses. Variants with the same quantizer share one, unless it is calibrated: their
    inputs differ."""

    @classmethod
    def of(cls, by_variant: list[Quantizer | None]) -> Packing:
        """Each quantizer once, and a calibrated one once for each variant."""
        keys = [
            (quantizer, index if quantizer is not None and quantizer.needs else None)
            for index, quantizer in enumerate(by_variant)
        ]
        distinct = tuple(dict.fromkeys(keys))
        return cls(tuple(quantizer for quantizer, _ in distinct), tuple(map(distinct.index, keys)))


@dataclass
class Plan:
    """What all layers share while the variants of one checkpoint are measured."""

    spec: ProbeSpec
    backend: Any
    """``probe.backend.Backend``."""
    variants: tuple[Variant, ...] = ()
    """Those that are measured now."""
    packings: dict[str, Packing] = field(default_factory=dict)
    """By layer, filled when a layer is first asked for."""
    measured: dict[str, Any] = field(default_factory=dict)
    """By layer: what the backend found of its weight; filled when it is first packed."""
    kept: dict[str, Any] = field(default_factory=dict)
    """By layer: packed weights that stay until they are let go."""
    calibrated: dict[str, dict[int, Encoded]] = field(default_factory=dict)
    """By layer and slot: the encoded weights of quantizers that needed the layer's inputs."""
    outcomes: dict[str, dict[Variant, CalibrationOutcome]] = field(default_factory=dict)
    """By layer: how its calibration went."""
    instead: Callable[[ProbeLinear, Tensor], Tensor] | None = None
    """What layers do in place of their products (``probe.calibration``)."""

    @property
    def of_controls(self) -> bool:
        """Whether controls are measured now: of these the losses are wanted, and nothing of the weights."""
        return any(isinstance(variant, ControlVariant) for variant in self.variants)

    def begin(self, variants: tuple[Variant, ...]) -> None:
        """Turns to ``variants`` of a checkpoint."""
        self.variants = variants
        for each in (self.packings, self.measured, self.kept, self.calibrated, self.outcomes):
            each.clear()

    def packing(self, name: str, *, is_head: bool) -> Packing:
        """How the variants share the packed weights of the layer called ``name``."""
        if name not in self.packings:
            by_variant = [variant.quantizer_of(name, is_head=is_head) for variant in self.variants]
            self.packings[name] = Packing.of(by_variant)
        return self.packings[name]

    def let_go(self, layers: Iterable[str]) -> None:
        """Drops what is kept of the weights of the layers called so; what was measured of them stays."""
        for name in layers:
            self.kept.pop(name, None)
            self.calibrated.pop(name, None)


class ProbeLinear(nn.Module):
    """A linear layer that advances V variants at once: variant v's rows meet variant v's weight."""

    def __init__(self, site: LinearSite, weight_name: str, transposed: bool, plan: Plan) -> None:
        super().__init__()
        self.name = site.name
        self.weight_name = weight_name
        self.is_head = site.is_head
        self.bias: nn.Parameter | None = site.module.bias  # type: ignore[assignment]
        self.stored: Tensor | None = None
        self.plan = plan
        self._transposed = transposed
        shape: torch.Size = site.module.weight.shape  # type: ignore[assignment]
        rows, features = reversed(shape) if transposed else shape
        vocabulary = plan.spec.vocab_rows if site.is_head else None
        self.counted_rows: int = rows if vocabulary is None else min(rows, vocabulary)
        """Rows that count in statistics: all but the padding of the vocabulary."""
        self.in_features, self.out_features = features, rows
        self.counted_values: int = self.counted_rows * features

    @property
    def packing(self) -> Packing:
        """How the variants share its packed weights."""
        return self.plan.packing(self.name, is_head=self.is_head)

    @property
    def slots(self) -> tuple[int, ...]:
        """Which packed weight each variant uses."""
        return self.packing.slots

    @property
    def weight(self) -> WeightFacts:
        """For the model's own code."""
        return WeightFacts(self.stored_weight())

    def stored_weight(self) -> Tensor:
        """The weight as stored, (O, I)."""
        assert self.stored is not None, f"{self.name} was not filled"
        return self.stored.T if self._transposed else self.stored

    def float_weight(self) -> Tensor:
        """The weight in float32, (O, I), contiguous."""
        return self.stored_weight().to(torch.float32).contiguous()

    def release(self) -> None:
        """Lets the weight go, and what was made of it."""
        self.stored = None
        self.plan.let_go([self.name])

    def packed(self) -> Any:
        """The weight packed for all variants; what is measured of it is measured when it is packed first."""
        kept = self.plan.kept
        if self.name in kept:
            return kept[self.name]
        packed = self.plan.backend.pack(self)
        if self.plan.backend.keeps_packed or self.plan.of_controls:  # whose weights take longer to make
            kept[self.name] = packed
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """float32 (V * N, T, I), variants outermost -> (V * N, T, O)."""
        if self.plan.instead is not None:
            return self.plan.instead(self, x)
        rows_VRI = x.reshape(len(self.slots), -1, x.shape[-1])
        out_VRO: Tensor = self.plan.backend.product(self, rows_VRI)
        return out_VRO.view(*x.shape[:-1], -1)


def require_rules(
    variants: Sequence[Variant], sites: Sequence[LinearSite], config: Mapping[str, Any]
) -> None:
    """``CheckpointError`` where a rule of ``variants`` decides for none of ``sites``, or does not fit the model of
    ``config`` that they are of.
    """
    layers = [site.name for site in sites if not site.is_head]
    head = next((site.name for site in sites if site.is_head), None)
    if head is None and any(variant.head for variant in variants):
        raise CheckpointError("which layer is the output head is not known: wanted variants without +head")
    try:
        require_models(variants, config)
        require_sites(variants, layers, head)
    except UsageError as error:
        raise CheckpointError(str(error)) from error
