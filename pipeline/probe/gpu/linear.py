"""The quantizable layers of a skeleton: stored weights in, products of all variants out.

A layer keeps the weight as stored, a view of the checkpoint's file, and packs it for all variants at once when it is
used (``quantize.triton``). Packing costs a few percent of the product that follows, and no model ever holds more
than one layer's packed weights.

Legend: V = variants, M = rows per variant, I = in_features, O = out_features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.probe.gpu import ops
from pipeline.probe.gpu.product import multiply
from pipeline.probe.layers import LinearSite, WeightFacts
from pipeline.quantize import Quantizer, Variant
from pipeline.quantize.triton.packing import PackedWeight, pack, summarise
from pipeline.spec import ProbeSpec


@dataclass(frozen=True)
class Packing:
    """How the variants share the packed weights of a layer."""

    quantizers: tuple[Quantizer | None, ...]
    """Of each packed weight; None = the stored values."""
    slots: tuple[int, ...]
    """Which packed weight each variant uses; variants with the same quantizer share one."""

    @classmethod
    def of(cls, by_variant: list[Quantizer | None]) -> Packing:
        """Each quantizer once."""
        quantizers = tuple(dict.fromkeys(by_variant))
        return cls(quantizers, tuple(map(quantizers.index, by_variant)))


@dataclass
class Plan:
    """What all layers share."""

    spec: ProbeSpec
    variants: tuple[Variant, ...] = ()
    """Those that are measured now."""
    packings: dict[str, Packing] = field(default_factory=dict)
    """By layer, filled when a layer is first asked for."""
    summaries: dict[str, Tensor] = field(default_factory=dict)
    """By layer: the statistics of this checkpoint's weight (``fused.summarise``), still on the device."""

    def begin(self, variants: tuple[Variant, ...]) -> None:
        """Turns to ``variants`` of a checkpoint."""
        self.variants = variants
        self.packings.clear()
        self.summaries.clear()

    def packing(self, name: str, *, is_head: bool) -> Packing:
        """How the variants share the packed weights of the layer called ``name``."""
        if name not in self.packings:
            by_variant = [variant.quantizer_of(name, is_head=is_head) for variant in self.variants]
            self.packings[name] = Packing.of(by_variant)
        return self.packings[name]


class ProbeLinear(nn.Module):
    """A linear layer that advances V variants at once: variant v's rows meet variant v's weight."""

    def __init__(self, site: LinearSite, weight_name: str, transposed: bool, plan: Plan) -> None:
        super().__init__()
        self.name = site.name
        self.weight_name = weight_name
        self.is_head = site.is_head
        self.bias: nn.Parameter | None = site.module.bias  # type: ignore[assignment]
        self.stored: Tensor | None = None
        self._transposed = transposed
        self._plan = plan
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
        return self._plan.packing(self.name, is_head=self.is_head)

    @property
    def slots(self) -> tuple[int, ...]:
        """Which packed weight each variant uses."""
        return self.packing.slots

    @property
    def weight(self) -> WeightFacts:
        """For the model's own code."""
        return WeightFacts(self._weight())

    def _weight(self) -> Tensor:
        assert self.stored is not None, f"{self.name} was not filled"
        return self.stored.T if self._transposed else self.stored

    def packed(self) -> PackedWeight:
        """The weight packed for all variants; its statistics are kept when it is packed for the first time."""
        packed = pack(self._weight(), self.packing.quantizers, full=self._plan.spec.arithmetic != "split")
        if self.name not in self._plan.summaries:
            self._plan.summaries[self.name] = summarise(packed, self.counted_rows)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """float32 (V * N, T, I), variants outermost -> (V * N, T, O)."""
        packed = self.packed()
        variants, features = len(self.slots), x.shape[-1]
        rows = x.reshape(variants, -1, features)
        outs = packed.scale.shape[1]
        out = x.new_empty(variants, rows.shape[1], outs)
        if self._plan.spec.arithmetic == "split":
            operand, unit = ops.split(rows.reshape(-1, features))
            operand, unit = operand.view(variants, -1, 3 * features), unit.view(variants, -1)
            for v, slot in enumerate(self.slots):
                multiply(operand[v], packed.operand[slot], packed.three[slot], out[v])
                ops.finish(out[v], unit[v], packed.scale[slot], self.bias)
        else:
            for v, slot in enumerate(self.slots):
                weight_IO = packed.full[slot].T
                if self.bias is None:
                    torch.mm(rows[v], weight_IO, out=out[v])
                else:
                    torch.addmm(self.bias, rows[v], weight_IO, out=out[v])
        return out.view(*x.shape[:-1], outs)
