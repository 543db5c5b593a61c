"""Linear layers of a template that compute the products of all variants from the stored weight.

A layer keeps the weight as stored, a view of the checkpoint's file, and packs it for all variants at its use. The
backend (``probe.backend``) packs and multiplies.

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
    """Quantizer of each packed weight; None = the stored values."""
    slots: tuple[int, ...]
    """Which packed weight each variant uses. An equal quantizer is shared, unless it is calibrated: inputs differ."""

    @classmethod
    def of(cls, by_variant: list[Quantizer | None]) -> Packing:
        """Pack each quantizer once, and a calibrated one once per variant."""
        keys = [
            (quantizer, index if quantizer is not None and quantizer.needs else None)
            for index, quantizer in enumerate(by_variant)
        ]
        distinct = tuple(dict.fromkeys(keys))
        return cls(tuple(quantizer for quantizer, _ in distinct), tuple(map(distinct.index, keys)))


@dataclass
class Plan:
    """State that all layers share while the variants of one checkpoint are measured."""

    spec: ProbeSpec
    backend: Any
    """``probe.backend.Backend``."""
    only_losses: bool = False
    """Whether no variant's statistics and comparisons are wanted, whatever is measured."""
    variants: tuple[Variant, ...] = ()
    """Variants that are measured now."""
    packings: dict[str, Packing] = field(default_factory=dict)
    """Layer -> packing, filled on first use."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Layer -> the backend's statistics of its weight; filled when it is first packed."""
    kept: dict[str, Any] = field(default_factory=dict)
    """Layer -> packed weights that are kept until released."""
    calibrated: dict[str, dict[int, Encoded]] = field(default_factory=dict)
    """Layer and slot -> encoded weight of a calibrated quantizer."""
    outcomes: dict[str, dict[Variant, CalibrationOutcome]] = field(default_factory=dict)
    """Layer -> outcome of its calibration."""
    instead: Callable[[ProbeLinear, Tensor], Tensor] | None = None
    """Function that replaces the layers' products (``probe.calibration``)."""
    tokens: int | None = None
    """Tokens, of all variants together, that a decoder layer is called with now; None outside of the layers."""

    @property
    def stacked(self) -> int:
        """Variants whose rows a layer is given at once: the calibrated ones where the products are replaced."""
        return sum(self.instead is None or bool(variant.needs) for variant in self.variants)

    @property
    def of_controls(self) -> bool:
        return any(isinstance(variant, ControlVariant) for variant in self.variants)

    @property
    def losses_only(self) -> bool:
        """Whether only losses are needed now: no statistics of weights, no comparisons of variants."""
        return self.only_losses or self.of_controls

    def begin(self, variants: tuple[Variant, ...]) -> None:
        self.variants = variants
        for each in (self.packings, self.measured, self.kept, self.calibrated, self.outcomes):
            each.clear()

    def packing(self, name: str, *, is_head: bool) -> Packing:
        if name not in self.packings:
            by_variant = [variant.quantizer_of(name, is_head=is_head) for variant in self.variants]
            self.packings[name] = Packing.of(by_variant)
        return self.packings[name]

    def let_go(self, layers: Iterable[str]) -> None:
        """Drop the kept weights of the layers ``names``; their statistics stay."""
        for name in layers:
            self.kept.pop(name, None)
            self.calibrated.pop(name, None)


class ProbeLinear(nn.Module):
    """A linear layer of V variants: the rows of variant v are multiplied by its weight."""

    def __init__(self, site: LinearSite, weight_name: str, transposed: bool, plan: Plan) -> None:
        super().__init__()
        self.name = site.name
        self.weight_name = weight_name
        self.is_head = site.is_head
        self.bias: nn.Parameter | None = site.module.bias  # type: ignore[assignment]
        self.stored: Tensor | None = None
        self.filled: list[int] | None = None
        """Rows of each variant that hold tokens, where those after them are zeros; None: all."""
        self.plan = plan
        self._transposed = transposed
        shape: torch.Size = site.module.weight.shape  # type: ignore[assignment]
        rows, features = reversed(shape) if transposed else shape
        vocabulary = plan.spec.vocab_rows if site.is_head else None
        self.counted_rows: int = rows if vocabulary is None else min(rows, vocabulary)
        """Rows that count in statistics: all except padding rows of the vocabulary."""
        self.in_features, self.out_features = features, rows
        self.counted_values: int = self.counted_rows * features

    @property
    def packing(self) -> Packing:
        return self.plan.packing(self.name, is_head=self.is_head)

    @property
    def stacked(self) -> int:
        """Variants whose rows it is given at once."""
        return self.plan.stacked

    @property
    def slots(self) -> tuple[int, ...]:
        """Which packed weight each variant uses."""
        return self.packing.slots

    @property
    def weight(self) -> WeightFacts:
        """Stand-in for the model's own code."""
        return WeightFacts(self.stored_weight())

    def stored_weight(self) -> Tensor:
        """The weight as stored, (O, I)."""
        assert self.stored is not None, f"{self.name} was not filled"
        return self.stored.T if self._transposed else self.stored

    def float_weight(self) -> Tensor:
        """The weight in float32, (O, I), contiguous."""
        return self.stored_weight().to(torch.float32).contiguous()

    def release(self) -> None:
        """Release the weight and everything packed from it."""
        self.stored = None
        self.plan.let_go([self.name])

    def packed(self) -> Any:
        """The weight packed for all variants; statistics are computed at the first packing."""
        kept = self.plan.kept
        if self.name in kept:
            return kept[self.name]
        packed = self.plan.backend.pack(self)
        if self.plan.backend.keeps_packed or self.plan.of_controls:  # controls' weights take longer to make
            kept[self.name] = packed
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """float32 (V * N, T, I), variants outermost -> (V * N, T, O)."""
        if self.plan.instead is not None:
            return self.plan.instead(self, x)
        out_VRO: Tensor = self.plan.backend.product(self, self.by_variant(x))
        return out_VRO.view(*x.shape[:-1], -1)

    def by_variant(self, x: Tensor) -> Tensor:
        """``x`` as (V, R, I). Raises CheckpointError if a variant may have more rows than another: where a layer's
        tokens were put into one dimension and some of them chosen.
        """
        rows, variants, tokens = x.shape[:-1].numel(), self.plan.stacked, self.plan.tokens
        all_of_them = x.dim() > 2 or self.filled is not None or not tokens or (rows and rows % tokens == 0)
        if rows % variants or not all_of_them:
            raise CheckpointError(
                f"{self.name} is called with {rows} rows of {tokens} tokens, so that each variant may choose tokens by "
                "itself: of mixtures of experts those are supported that transformers holds as gate_up_proj and "
                "down_proj"
            )
        return x.reshape(variants, rows // variants, x.shape[-1])


def require_rules(
    variants: Sequence[Variant], sites: Sequence[LinearSite], config: Mapping[str, Any]
) -> None:
    """Raise CheckpointError if a rule of ``variants`` matches no site, or does not fit the model of ``config``."""
    layers = [site.name for site in sites if not site.is_head]
    head = next((site.name for site in sites if site.is_head), None)
    if head is None and any(variant.head for variant in variants):
        raise CheckpointError("which layer is the output head is not known: wanted variants without +head")
    try:
        require_models(variants, config)
        require_sites(variants, layers, head)
    except UsageError as error:
        raise CheckpointError(str(error)) from error
