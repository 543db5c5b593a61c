"""Results of measuring one checkpoint: a row per variant, times and memory."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pipeline.measurements import TokenMeasurement, selected
from pipeline.measurements.hooks import token_columns
from pipeline.probe.found import Numbers
from pipeline.probe.tensor_statistics import TensorStatistics
from pipeline.quantize.controls import Control
from pipeline.quantize.swapped_error import SwappedVariant
from pipeline.spec import MEASUREMENTS, ProbeSpec


@dataclass(frozen=True)
class VariantResult:
    """Scores of one variant of one checkpoint; each field is a column of the shard."""

    variant: str
    nll_nats: float
    """Mean over predicted tokens, accumulated in float64."""
    perplexity: float
    """exp(nll_nats)"""
    n_tokens: int
    """Predicted tokens: sequences x (seq_len - 1)."""
    batch_nll_nats: tuple[float, ...]
    """Mean nll of each batch; all batches hold equally many tokens."""
    kl_nats_mean: float
    kl_nats_p50: float
    kl_nats_p99: float
    top1_agreement: float
    """Share of predictions where the most likely token is fp32's."""
    delta_p_rms: float
    """Root mean square change of the correct token's probability against fp32."""
    tensors: tuple[TensorStatistics, ...]
    more: dict[str, Any] = field(default_factory=dict)
    """Columns of further measurements."""

    def row(self) -> dict[str, Any]:
        """Plain values, without ``dataclasses.asdict``, whose copies cost 5 ms beside a busy GPU."""
        row = {**vars(self), **self.more, "tensors": [tensor.row() for tensor in self.tensors]}
        del row["more"]
        return row


@dataclass(frozen=True)
class ControlResult:
    """Loss of a checkpoint under one control (``pipeline.quantize.controls``)."""

    variant: str
    """Variant of the control, possibly fp32."""
    control: Control
    batch_nll_nats: tuple[float, ...]
    """Mean nll of each batch; all NaN if a logit was not finite."""

    def entry(self) -> dict[str, Any]:
        """Its entry in the shard's row of ``variant``."""
        return {**vars(self.control), "batch_nll_nats": list(self.batch_nll_nats)}


@dataclass(frozen=True)
class SwapResult:
    """Loss of a checkpoint under the errors of another one (``pipeline.quantize.swapped_error``)."""

    variant: str
    error_step: int
    error_sha256: str
    """``weights_sha256`` of the other checkpoint."""
    batch_nll_nats: tuple[float, ...]
    """Mean nll of each batch; all NaN if a logit was not finite."""

    def entry(self) -> dict[str, Any]:
        """Its entry in the shard's row of ``variant``."""
        entry = {**vars(self), "batch_nll_nats": list(self.batch_nll_nats)}
        del entry["variant"]
        return entry


@dataclass(frozen=True)
class Measurement:
    """One checkpoint under all variants."""

    results: tuple[VariantResult, ...]
    weights_sha256: str
    load_s: float
    """Seconds of loading, from opening the files; in the background if the checkpoint was prefetched."""
    probe_s: float
    """Seconds from loaded weights to the last number, or on a GPU to the weights' hash if that is later."""
    peak_bytes: int
    """GPU: peak memory allocated during this probe. CPU: peak resident size of the process so far."""
    device: str
    notes: tuple[str, ...]
    measurements: tuple[str, ...] = MEASUREMENTS
    """Names of what was measured."""
    controls: tuple[ControlResult, ...] = ()
    swaps: tuple[SwapResult, ...] = ()

    def swap_entries(self) -> dict[str, list[dict[str, Any]]]:
        """Variant -> entries of the swap in the shard's rows."""
        return {each.variant: [each.entry()] for each in self.swaps}

    def control_entries(self) -> dict[str, list[dict[str, Any]]]:
        """Variant -> entries of the controls in the shard's rows."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in self.controls:
            found.setdefault(each.variant, []).append(each.entry())
        return found


def measurement(
    spec: ProbeSpec,
    device: torch.device,
    numbers: Numbers,
    of_model: Mapping[str, Any],
    *,
    weights_sha256: str,
    load_s: float,
    loaded: float,
    beside_sha256: str = "",
) -> Measurement:
    """Make the result of one checkpoint, timed from ``loaded`` (perf_counter).

    ``of_model``: checkpoint-level columns, stored in the row of fp32. ``beside_sha256``: hash of the weights whose
    errors are swapped in.
    """
    token_level = selected(spec.measurements, TokenMeasurement)
    of_model = {**of_model, **numbers.of_hidden}
    results = []
    for index, variant in enumerate(spec.variants):
        values = {name: value[index] for name, value in numbers.values.items()}
        columns = token_columns(token_level, values, spec.shape.batches)
        columns |= of_model if index == 0 else dict.fromkeys(of_model)
        results.append(variant_result(str(variant), columns, numbers.statistics[variant]))
    return Measurement(
        results=tuple(results),
        weights_sha256=weights_sha256,
        load_s=load_s,
        probe_s=time.perf_counter() - loaded,
        peak_bytes=peak_bytes(device),
        device=device_name(device),
        notes=tuple(numbers.notes),
        measurements=spec.measurements,
        controls=tuple(
            ControlResult(str(each.base), each.control, _batch_means(nll, spec.shape.batches))
            for each, nll in numbers.controls.items()
            if not isinstance(each, SwappedVariant)
        ),
        swaps=tuple(
            SwapResult(str(each.base), spec.swap[0], beside_sha256, _batch_means(nll, spec.shape.batches))
            for each, nll in numbers.controls.items()
            if isinstance(each, SwappedVariant)
        ),
    )


def _batch_means(nll_NP: np.ndarray, batches: int) -> tuple[float, ...]:
    """Batch means like those of variants (``measurements.loss``); all NaN if one is, because comparisons need all."""
    means = nll_NP.reshape(batches, -1).mean(axis=1)
    return tuple(means.tolist()) if np.isfinite(means).all() else (math.nan,) * batches


def variant_result(
    variant: str, columns: dict[str, Any], tensors: tuple[TensorStatistics, ...]
) -> VariantResult:
    """The row of ``variant`` from the columns of all measurements."""
    core = {name: columns[name] for name in VariantResult.__dataclass_fields__ if name in columns}
    core["batch_nll_nats"] = tuple(core["batch_nll_nats"])
    more = {name: value for name, value in columns.items() if name not in core}
    return VariantResult(variant=variant, tensors=tensors, **core, more=more)


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
