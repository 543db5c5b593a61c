"""The backend on Triton's kernels: weights packed in one pass, split products, logits scored in one pass, and whole
models of the structure of GPT-NeoX.

Legend: see ``probe.backend``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.measurements import TensorMeasurement, TokenMeasurement, further, selected
from pipeline.models.loading import vocabulary
from pipeline.models.memory import DRAW_BYTES, module_chunk, variant_groups, walk_chunk
from pipeline.models.variant_linear import ProbeLinear
from pipeline.probe.backend import Scores, compare, float_products
from pipeline.probe.gpu import neox, ops
from pipeline.probe.gpu.product import multiply
from pipeline.probe.gpu.split_moments import sum_of_squares
from pipeline.probe.tensor_statistics import TensorStatistics, is_listed, refuse_values, weight_columns
from pipeline.quantize import Calibration, Encoded, Quantizer, Variant, decoded
from pipeline.quantize.draws import Draws
from pipeline.quantize.triton.fast_encode import encode_together
from pipeline.quantize.triton.launch import compiling
from pipeline.quantize.triton.packing import PackedWeight, pack, summarise
from pipeline.spec import ProbeSpec

FUSED = ("nll_nats", "kl_nats", "agrees", "delta_p")
"""Token-level values that the kernels compute, in their order."""

SPLIT_ROWS = 65_536
"""Rows of calibration tokens that are split at a time: bounds the operand."""


class TritonBackend:
    """The Triton backend; on a CPU it runs through Triton's interpreter."""

    keeps_packed = False
    """False: packing costs a few percent of the product, and only one layer's packed weights are in memory."""

    def __init__(self, spec: ProbeSpec, device: torch.device) -> None:
        self._spec, self._device = spec, device
        self._split = spec.arithmetic == "split"
        names = further(spec.measurements)
        self._token_level = selected(names, TokenMeasurement)
        self._tensor_level = selected(names, TensorMeasurement)
        self._is_compiling = False
        self._draws = Draws(DRAW_BYTES)

    def groups(self, variants: Sequence[Variant]) -> list[tuple[Variant, ...]]:
        """Groups of the size that the loss kernel has registers for."""
        return variant_groups(variants)

    def chunk(self, config: Any, variants: int, sequences: int, length: int, *, fused: bool) -> int:
        """Chunk size by its memory."""
        if fused:
            return walk_chunk(config.hidden_size, config.intermediate_size, variants, sequences, length)
        return module_chunk(vocabulary(config), variants, sequences, length)

    def encode(
        self,
        quantizer: Quantizer,
        weights: Mapping[str, Tensor],
        calibration: Calibration,
        config: Mapping[str, Any],
    ) -> dict[str, Encoded]:
        """Encode with a kernel if the quantizer has one."""
        return encode_together(quantizer, weights, calibration, config)

    def sum_of_squares(self, rows_RI: Tensor) -> Tensor:
        """Split, or in float64."""
        if self._split:
            return sum_of_squares(rows_RI)
        wide_RI = rows_RI.double()
        return wide_RI.T @ wide_RI

    def products(self, rows_CRI: Tensor, weights_COI: Tensor, bias: Tensor | None) -> Tensor:
        """The product, split or in float32."""
        if not self._split:
            return float_products(rows_CRI, weights_COI, bias)
        out_CRO = rows_CRI.new_empty(*rows_CRI.shape[:2], weights_COI.shape[1])
        for rows_RI, weight, out_RO in zip(rows_CRI, weights_COI, out_CRO, strict=True):
            packed = pack(weight, [None])
            for some_RI, some_RO in zip(rows_RI.split(SPLIT_ROWS), out_RO.split(SPLIT_ROWS), strict=True):
                operand, unit = ops.split(some_RI)
                multiply(operand, packed.operand[0], packed.three[0], some_RO)
                ops.finish(some_RO, unit, packed.scale[0], bias)
        return out_CRO

    def pack(self, linear: ProbeLinear) -> PackedWeight:
        """Pack in one launch; quantizers without a kernel are packed one by one."""
        plan, quantizers = linear.plan, linear.packing.quantizers
        packed = pack(
            linear.stored_weight(), quantizers, not self._split, plan.calibrated.get(linear.name), self._draws
        )
        if linear.name not in plan.measured and not plan.losses_only:
            more = self._measure_further(linear) if self._tensor_level and not self._is_compiling else {}
            plan.measured[linear.name] = summarise(packed, linear.counted_rows), more
        return packed

    def _measure_further(self, linear: ProbeLinear) -> dict[Variant, dict[str, Any]]:
        """Variant -> values of the measurements without a kernel, from every quantizer's definition."""
        weight = linear.float_weight()
        calibrated = linear.plan.calibrated.get(linear.name, {})
        values: list[Tensor] = []
        steps: list[Tensor | None] = []
        for slot, quantizer in enumerate(linear.packing.quantizers):
            if quantizer is None:
                values.append(weight)
                steps.append(None)
                continue
            encoded = calibrated[slot] if slot in calibrated else quantizer.encode(weight)
            values.append(decoded(quantizer, encoded, weight))
            steps.append(quantizer.grid_steps(weight, encoded))
        return weight_columns(linear, weight, values, steps, self._tensor_level)

    def product(self, linear: ProbeLinear, rows_VRI: Tensor) -> Tensor:
        """The product, split or in float32."""
        packed: PackedWeight = linear.packed()
        variants, _, features = rows_VRI.shape
        out_VRO = rows_VRI.new_empty(variants, rows_VRI.shape[1], packed.scale.shape[1])
        if self._split:
            operand, unit = ops.split(rows_VRI.reshape(-1, features))
            operand, unit = operand.view(variants, -1, 3 * features), unit.view(variants, -1)
            for v, slot in enumerate(linear.slots):
                multiply(operand[v], packed.operand[slot], packed.three[slot], out_VRO[v])
                ops.finish(out_VRO[v], unit[v], packed.scale[slot], linear.bias)
            return out_VRO
        for v, slot in enumerate(linear.slots):
            weight_IO = packed.full[slot].T
            if linear.bias is None:
                torch.mm(rows_VRI[v], weight_IO, out=out_VRO[v])
            else:
                torch.addmm(linear.bias, rows_VRI[v], weight_IO, out=out_VRO[v])
        return out_VRO

    def scores(self, tokens_NT: Tensor, variants: int, *, losses_only: bool = False) -> Scores:
        """Scores by the loss kernel; further measurements by their hooks."""
        if losses_only:
            return TritonLosses(tokens_NT, variants)
        further_ones = [] if self._is_compiling else self._token_level
        return TritonScores(tokens_NT, variants, further_ones)

    def statistics(self, linears: Sequence[ProbeLinear]) -> dict[Variant, tuple[TensorStatistics, ...]]:
        """Statistics from the kernel's sums, copied to the host together."""
        plan = linears[0].plan
        found: dict[Variant, list[TensorStatistics]] = {variant: [] for variant in plan.variants}
        linears = [linear for linear in linears if _lists(linear)]
        summaries = torch.cat([plan.measured[linear.name][0] for linear in linears]).tolist()
        for linear in linears:
            sums, more = plan.measured[linear.name]
            (mean, std, absmax, kurtosis, *fits), summaries = (
                summaries[: sums.numel()], summaries[sums.numel() :],
            )  # fmt: skip
            for variant, slot in zip(plan.variants, linear.slots, strict=True):
                quantizer = linear.packing.quantizers[slot]
                if not is_listed(linear, variant, quantizer):
                    continue
                error: float | None = None
                boundary: float | None = None
                if quantizer is not None:
                    error, boundary = fits[2 * slot : 2 * slot + 2]
                    if not math.isfinite(error):
                        refuse_values(linear.name, quantizer, absmax)
                    if math.isnan(boundary):  # a grid without even steps
                        boundary = None
                found[variant].append(
                    TensorStatistics(
                        linear.name, linear.counted_values, mean, std, absmax, kurtosis, error, boundary,
                        more.get(variant, {}),
                    )
                )  # fmt: skip
        return {variant: tuple(rows) for variant, rows in found.items()}

    def may_fuse(self, model: Any) -> bool:
        """Whether ``model`` is a GPT-NeoX and products are split."""
        return self._split and neox.fits(model)

    def fused(self, model: Any, variants: int, tokens_NT: Tensor) -> neox.FusedNeox:
        """The fused pass of GPT-NeoX."""
        return neox.FusedNeox(model, variants, tokens_NT)

    @contextmanager
    def compiling(self) -> Iterator[bool]:
        """Context manager: launched kernels are compiled in parallel."""
        self._is_compiling = True
        try:
            with compiling():
                yield True
        finally:
            self._is_compiling = False


def _lists(linear: ProbeLinear) -> bool:
    """Whether any variant has statistics of the weight of ``linear``."""
    packing = linear.packing
    pairs = zip(linear.plan.variants, packing.slots, strict=True)
    return any(is_listed(linear, variant, packing.quantizers[slot]) for variant, slot in pairs)


class TritonLosses:
    """The losses of ``ops.losses`` (V, N * T); those of the last token of a sequence, which has no target, are
    unused.
    """

    def __init__(self, tokens_NT: Tensor, variants: int) -> None:
        self._shape = (variants, *tokens_NT.shape)
        self._targets = tokens_NT.roll(-1, dims=1).flatten()
        self._losses = torch.empty(
            variants, self._targets.numel(), dtype=torch.float64, device=tokens_NT.device
        )
        self._first = 0

    def add(self, logits: Tensor, scale: Tensor | None) -> None:
        """Add the next rows."""
        targets = self._targets[self._first : self._first + logits.shape[1]]
        ops.losses(logits, targets, self._losses, self._first, scale)
        self._first += logits.shape[1]

    def values(self) -> dict[str, np.ndarray]:
        """``nll_nats``: (V, N, P)."""
        return {"nll_nats": self._losses.view(self._shape)[:, :, :-1].contiguous().cpu().numpy()}


class TritonScores:
    """The sums of ``ops.score`` (6, V, N * T); those of the last token of a sequence, which has no target, are
    unused.
    """

    def __init__(self, tokens_NT: Tensor, variants: int, measurements: Sequence[TokenMeasurement]) -> None:
        self._tokens_NT, self._variants, self._measurements = tokens_NT, variants, measurements
        self._targets = tokens_NT.roll(-1, dims=1).flatten()
        self._sums = ops.empty_sums(variants, self._targets.numel(), tokens_NT.device)
        self._more: list[Mapping[str, Tensor]] = []
        self._first = 0

    def add(self, logits: Tensor, scale: Tensor | None) -> None:
        """Add the next rows."""
        targets = self._targets[self._first : self._first + logits.shape[1]]
        ops.score(logits, targets, self._sums, self._first, scale)
        if self._measurements:
            scaled = logits if scale is None else logits * scale[:, None]
            self._more.append(compare(scaled, targets, self._measurements))
        self._first += logits.shape[1]

    def values(self) -> dict[str, np.ndarray]:
        """Name -> (V, N, P)."""
        found = dict(zip(FUSED, ops.scores(self._sums), strict=True))
        for each in self._measurements:
            for name, dtype in each.values.items():
                value = torch.cat([part[name] for part in self._more], dim=1)
                found[name] = value.to(getattr(torch, dtype))
        shape = (self._variants, *self._tokens_NT.shape)
        return {
            name: value.view(shape)[:, :, :-1].contiguous().cpu().numpy() for name, value in found.items()
        }
