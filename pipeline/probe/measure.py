"""One checkpoint measured: load, quantize, one forward of all variants, one row per variant."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.errors import UsageError
from pipeline.measurements import (
    CheckpointMeasurement,
    TensorMeasurement,
    TokenMeasurement,
    further,
    selected,
)
from pipeline.measurements.hooks import checkpoint_values, token_columns
from pipeline.probe.arithmetic import has_triton, require_arithmetic
from pipeline.probe.checks import ForwardCheck, forward_of
from pipeline.probe.evaluate import TokenResults, evaluate
from pipeline.probe.layers import linear_sites
from pipeline.probe.loading import (
    StoredWeights,
    build_model,
    check_fit,
    read_config,
    read_weights,
    vocabulary,
)
from pipeline.probe.notes import config_notes, tied_notes
from pipeline.probe.prefetch import Prefetcher
from pipeline.probe.quantized import TensorStatistics, expand
from pipeline.sizing import CPU_CHUNK_LOGIT_BYTES
from pipeline.spec import MEASUREMENTS, ProbeSpec, Variant
from pipeline.suites import Unchanged

if TYPE_CHECKING:
    from pipeline.probe.gpu.prober import GpuProber
    from pipeline.probe.streaming import StreamingProber

CPU_CHUNK_ROWS = 2048
"""Rows (variants x tokens) of a chunk on the CPU: small enough that activations stay in its caches."""
GPU_CHUNK_ROWS = 65_536
"""Rows of a chunk on a GPU: enough to fill it."""


@dataclass(frozen=True)
class VariantResult:
    """What one variant of one checkpoint scored; field for field a row of the shard."""

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
        """As plain values; ``dataclasses.asdict`` copies every number of every tensor: 5 ms beside a GPU at work."""
        row = {**vars(self), **self.more, "tensors": [tensor.row() for tensor in self.tensors]}
        del row["more"]
        return row


@dataclass(frozen=True)
class Found:
    """What a pass of all tokens through one checkpoint gave."""

    tokens: TokenResults
    statistics: dict[Variant, tuple[TensorStatistics, ...]]
    weights_sha256: str
    load_s: float
    """As in :class:`Measurement`."""
    loaded: float
    """When loading was done (perf_counter)."""
    of_model: dict[str, Any] = field(default_factory=dict)
    """Columns of the checkpoint level."""


@dataclass(frozen=True)
class Measurement:
    """One checkpoint under all variants."""

    results: tuple[VariantResult, ...]
    weights_sha256: str
    load_s: float
    """Seconds that loading took, from opening the files; in the background where the checkpoint was prefetched."""
    probe_s: float
    """Seconds from loaded weights to the last number; on a GPU to the weights' hash, where that is later."""
    peak_bytes: int
    """GPU: most memory allocated during this probe. CPU: peak resident size of the process so far."""
    device: str
    notes: tuple[str, ...]
    measurements: tuple[str, ...] = MEASUREMENTS
    """Names of what was measured."""


@dataclass(frozen=True)
class _Read:
    """A checkpoint as it was read."""

    weights: StoredWeights
    files: Unchanged
    """As they were before."""
    seconds: float


class Prober:
    """Measures checkpoints of one suite with one set of tokens on one device."""

    def __init__(self, spec: ProbeSpec, tokens: np.ndarray, device: str = "cpu") -> None:
        self.spec = spec
        self.device = torch.device(device)
        self._sequences = checked_sequences(spec, tokens)
        self._gpu = gpu_prober(spec, self._sequences, self.device)
        self._ahead = Prefetcher(_read)
        self._check = ForwardCheck(self._sequences)

    @functools.cached_property
    def layer_by_layer(self) -> StreamingProber:
        """The same measurement, to the same numbers, of checkpoints that do not fit the memory as a whole."""
        from pipeline.probe.streaming import StreamingProber

        return StreamingProber(
            self.spec, self._sequences.reshape(_lengths(self.spec)), str(self.device), self._gpu
        )

    def prefetch(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Starts to load the checkpoint in ``folder`` in the background; the next :meth:`measure` of it uses that."""
        self._background.start(folder, expected_sha256)

    def forget(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Lets go what :meth:`prefetch` began and no :meth:`measure` has used."""
        self._background.forget(folder, expected_sha256)

    @property
    def _background(self) -> Prefetcher[_Read] | GpuProber:
        return self._gpu or self._ahead

    def measure(self, folder: Path, expected_sha256: str | None = None) -> Measurement:
        """Measures the checkpoint in ``folder``.

        Raises CheckpointError where it cannot be used; the message does not repeat the checkpoint's name.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if self._gpu is not None:
            found = self._gpu.measure(folder, expected_sha256)
            found.tokens.notes.extend(config_notes(folder))
            return measurement(self.spec, self.device, found)
        read = self._ahead.take(folder, expected_sha256)
        with read.files:  # weights that are stored as float32 stay views of them to the end
            start = time.perf_counter()
            config = read_config(folder)
            check_fit(config, self._sequences)
            model = build_model(config, read.weights).to(self.device)
            sha256, load_s = read.weights.sha256, read.seconds + time.perf_counter() - start
            del read
            measured = self.measure_model(model, weights_sha256=sha256, load_s=load_s)
        return dataclasses.replace(measured, notes=(*measured.notes, *config_notes(folder)))

    def keep(self, folder: Path) -> None:
        """Readies the measurement of models in memory whose weights are stored as in the checkpoint in ``folder``."""
        if self._gpu is not None:
            self._gpu.keep(folder)

    def measure_model(
        self, model: torch.nn.Module, *, weights_sha256: str = "", load_s: float = 0.0
    ) -> Measurement:
        """Measures ``model``, float32 in eval mode on this prober's device, and uses it up: its layers are replaced.

        The numbers are those of :meth:`measure` on a checkpoint that holds the same values. On a GPU, after
        :meth:`keep` only.
        """
        loaded = time.perf_counter()
        if self._gpu is not None:
            tokens, statistics = self._gpu.measure_model(model)
            of_model = {}
        else:
            with float32_products(tf32=self.spec.arithmetic == "tf32"):
                self._refuse_unsuited(model)
                notes = tied_notes(model)
                of_model = self._of_model(model)
                tensor_level = selected(self.spec.measurements, TensorMeasurement)
                statistics = expand(model, self.spec.variants, self.spec.vocab_rows, tensor_level)
                token_level = selected(self.spec.measurements, TokenMeasurement)
                n_variants = len(self.spec.variants)
                tokens = evaluate(
                    model,
                    n_variants,
                    self._sequences,
                    self._chunk(model),
                    self.device,
                    measurements=token_level,
                )
            tokens.notes.extend(notes)
        found = Found(tokens, statistics, weights_sha256, load_s, loaded, of_model)
        return measurement(self.spec, self.device, found)

    @torch.inference_mode()
    def _refuse_unsuited(self, model: Any) -> None:
        linear_sites(model)  # that its weights are not where they are looked for is the better reason
        if self._check.needed(model.config):
            rows = (ids.unsqueeze(0).to(self.device) for ids in self._check.sequences)
            with forward_of(model):
                self._check.judge(
                    model, (model(input_ids=ids, use_cache=False, return_dict=True).logits[0] for ids in rows)
                )

    def _of_model(self, model: torch.nn.Module) -> dict[str, Any]:
        """Columns of the checkpoint level, of the model before its layers are replaced."""
        asked = selected(self.spec.measurements, CheckpointMeasurement)
        if not asked:
            return {}
        return checkpoint_values(asked, model, torch.from_numpy(self._sequences).to(self.device))

    def _chunk(self, model: Any) -> int:
        """Sequences per forward."""
        return sequences_per_chunk(self.spec, vocabulary(model.config), self.device)


def checked_sequences(spec: ProbeSpec, tokens: np.ndarray) -> np.ndarray:
    """``tokens`` (batches, batch_size, seq_len) of ``spec`` as (sequences, seq_len)."""
    if tokens.shape != _lengths(spec) or tokens.dtype != np.int64:
        raise ValueError(f"tokens of {tokens.dtype} {tokens.shape}: wanted int64 {spec.shape}")
    return tokens.reshape(-1, spec.shape.seq_len)


def _lengths(spec: ProbeSpec) -> tuple[int, int, int]:
    return spec.shape.batches, spec.shape.batch_size, spec.shape.seq_len


def gpu_prober(spec: ProbeSpec, sequences: np.ndarray, device: torch.device) -> GpuProber | None:
    """The warm state of a GPU with Triton, else None. UsageError for an arithmetic that ``device`` lacks."""
    require_arithmetic(spec.arithmetic, str(device))
    if device.type != "cuda" or not has_triton():
        return None
    if asked := further(spec.measurements):
        raise UsageError(f"measurement {asked[0]!r} cannot be taken on a GPU yet: run with --device cpu")
    from pipeline.probe.gpu.prober import GpuProber

    return GpuProber(spec, sequences, device)


def measurement(spec: ProbeSpec, device: torch.device, found: Found) -> Measurement:
    """One checkpoint's rows and what measuring it took."""
    token_level = selected(spec.measurements, TokenMeasurement)
    results = []
    for index, variant in enumerate(spec.variants):
        values = {name: value[index] for name, value in found.tokens.values.items()}
        columns = token_columns(token_level, values, spec.shape.batches)
        of_model = found.of_model if index == 0 else dict.fromkeys(found.of_model)
        results.append(variant_result(str(variant), columns | of_model, found.statistics[variant]))
    return Measurement(
        results=tuple(results),
        weights_sha256=found.weights_sha256,
        load_s=found.load_s,
        probe_s=time.perf_counter() - found.loaded,
        peak_bytes=peak_bytes(device),
        device=device_name(device),
        notes=tuple(found.tokens.notes),
        measurements=spec.measurements,
    )


def sequences_per_chunk(spec: ProbeSpec, vocabulary: int, device: torch.device) -> int:
    """Sequences that go at a time through a model of ``vocabulary`` logits."""
    rows_per_sequence = len(spec.variants) * spec.shape.seq_len
    rows = GPU_CHUNK_ROWS if device.type == "cuda" else CPU_CHUNK_ROWS
    by_logits = CPU_CHUNK_LOGIT_BYTES // (4 * rows_per_sequence * vocabulary)
    return max(1, min(rows // rows_per_sequence, by_logits))


def variant_result(
    variant: str, columns: dict[str, Any], tensors: tuple[TensorStatistics, ...]
) -> VariantResult:
    """The row of ``variant`` from the columns of all measurements."""
    core = {name: columns[name] for name in VariantResult.__dataclass_fields__ if name in columns}
    core["batch_nll_nats"] = tuple(core["batch_nll_nats"])
    more = {name: value for name, value in columns.items() if name not in core}
    return VariantResult(variant=variant, tensors=tensors, **core, more=more)


def _read(folder: Path, expected_sha256: str | None) -> _Read:
    start, files = time.perf_counter(), Unchanged(folder)
    return _Read(read_weights(folder, expected_sha256), files, time.perf_counter() - start)


@contextlib.contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """CUDA products of float32 matrices in TF32 or not, whatever the process had set before."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
