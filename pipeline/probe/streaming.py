"""A checkpoint measured layer by layer, for models larger than the memory.

One decoder layer at a time is read (the next one meanwhile, in a thread), upcast, quantized under every variant, used
to advance the hidden states of all variants of all sequences, and dropped. In memory at any time: embeddings and
head, one layer x (1 + variants) and the next one as stored, and the hidden states (variants x tokens x hidden size x
4 bytes); the depth of the model does not count. The arithmetic is the whole-model path's, operation for operation, so
the numbers are equal bit for bit.

A GPU with Triton goes through the layers on its own kernels (``gpu/layers.py``); what is here is for the others.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.measurements import CheckpointMeasurement, TensorMeasurement, TokenMeasurement, selected
from pipeline.measurements.hooks import refuse_whole_models
from pipeline.probe.checks import ForwardCheck
from pipeline.probe.evaluate import TokenResults, forward_chunk
from pipeline.probe.layers import LinearSite, VariantLinear, blocks, linear_sites, replace_module
from pipeline.probe.loading import check_fit, check_sha256, vocabulary
from pipeline.probe.measure import (
    Found,
    Measurement,
    checked_sequences,
    float32_products,
    gpu_prober,
    measurement,
    sequences_per_chunk,
)
from pipeline.probe.notes import config_notes, tied_notes
from pipeline.probe.quantized import TensorStatistics, expand_site, require_rules
from pipeline.probe.room import room_for
from pipeline.probe.skeleton import Skeleton
from pipeline.probe.walk import LayerCall, Walk
from pipeline.spec import ProbeSpec, Variant
from pipeline.suites import Unchanged, weights_sha256

if TYPE_CHECKING:
    from pipeline.probe.gpu.prober import GpuProber

ADVICE = "free memory there, or use fewer workers, variants or batches, or a shorter --seq-len"
NOTE = "measured layer by layer"


class StreamingProber:
    """Measures checkpoints of one suite with one set of tokens on one device, as ``Prober`` does."""

    def __init__(
        self, spec: ProbeSpec, tokens: np.ndarray, device: str = "cpu", gpu: GpuProber | None = None
    ) -> None:
        """``gpu``: the warm state to use on a GPU with Triton; its own where none is given."""
        self.spec = spec
        self.device = torch.device(device)
        sequences = checked_sequences(spec, tokens)
        self._gpu = gpu or gpu_prober(spec, sequences, self.device)
        self._sequences = torch.from_numpy(sequences)
        self._check = ForwardCheck(sequences)

    def prefetch(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Nothing: a layer is read while the one before computes, and hashing begins with the first, so that a file
        larger than the page cache is read from its disk once.
        """

    def forget(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Lets go what a :meth:`measure` that failed has begun."""
        if self._gpu is not None:
            self._gpu.hashes.forget(folder, expected_sha256)

    def measure(self, folder: Path, expected_sha256: str | None = None) -> Measurement:
        """Measures the checkpoint in ``folder``.

        Raises CheckpointError where it cannot be used, or is of an architecture that cannot be walked; the message
        does not repeat the checkpoint's name.
        """
        refuse_whole_models(selected(self.spec.measurements, CheckpointMeasurement))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        if self._gpu is not None:
            found = self._gpu.measure_layers(folder, expected_sha256)
        else:
            found = self._measure(folder, expected_sha256)
        found.tokens.notes.extend((NOTE, *config_notes(folder)))
        return measurement(self.spec, self.device, found)

    def _measure(self, folder: Path, expected_sha256: str | None) -> Found:
        start = time.perf_counter()
        with Unchanged(folder):
            with ThreadPoolExecutor(1) as pool:
                hashing = pool.submit(weights_sha256, folder)
                skeleton = Skeleton(folder, self.device)
                sha256 = hashing.result()
            check_sha256(folder, sha256, expected_sha256)
            check_fit(skeleton.model.config, self._sequences.numpy())
            loaded = time.perf_counter()
            with float32_products(tf32=self.spec.arithmetic == "tf32"):
                tokens, statistics = self._evaluate(skeleton)
        return Found(tokens, statistics, sha256, loaded - start, loaded)

    def _evaluate(
        self, skeleton: Skeleton
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        model: Any = skeleton.model
        chunk = sequences_per_chunk(self.spec, vocabulary(model.config), self.device)
        notes: list[str] = []
        while True:
            try:
                tokens, statistics = _Pass(self.spec, skeleton, self._check).run(self._sequences.split(chunk))
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise CheckpointError(
                        f"one sequence of {self.spec.shape.seq_len} tokens in {len(self.spec.variants)} variants does "
                        "not fit the GPU layer by layer: use a shorter --seq-len or fewer variants or batches"
                    ) from None
                chunk //= 2
                notes.append(f"GPU out of memory: chunk reduced to {chunk} sequences")
                gc.collect()
                torch.cuda.empty_cache()
                continue
            tokens.notes.extend(notes)
            return tokens, statistics


class _Pass:
    """One walk of one checkpoint."""

    def __init__(self, spec: ProbeSpec, skeleton: Skeleton, check: ForwardCheck) -> None:
        self._spec, self._skeleton, self._check = spec, skeleton, check
        self._token_level = selected(spec.measurements, TokenMeasurement)
        self._tensor_level = selected(spec.measurements, TensorMeasurement)
        self._prefix, self._layers = blocks(skeleton.model)
        self._sites = linear_sites(skeleton.model)
        require_rules(spec.variants, self._sites)
        self._statistics: dict[Variant, list[TensorStatistics]] = {variant: [] for variant in spec.variants}

    @torch.inference_mode()
    def run(
        self, chunks: tuple[Tensor, ...]
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        skeleton = self._skeleton
        inside = [skeleton.paths(f"{self._prefix}.{index}") for index in range(len(self._layers))]
        outside = sorted(set(skeleton.paths()).difference(*inside))
        walk = Walk(skeleton.model, self._layers)
        checked = self._check.sequences.split(1) if self._check.needed(skeleton.model.config) else ()
        try:
            with ThreadPoolExecutor(1) as reader:
                following: Future[dict[str, Tensor]] = reader.submit(self._read, inside[0], 0)
                self._fill(self._read(outside, None), None)
                notes = tied_notes(skeleton.model)
                states, calls = self._begin(walk, (*chunks, *checked))
                for index, paths in enumerate(inside):
                    self._fill(following.result(), index)
                    if index + 1 < len(inside):
                        following = reader.submit(self._read, inside[index + 1], index + 1)
                    with self._expanded(f"{self._prefix}.{index}."):
                        _advance(self._layers[index], index, states, calls)
                    skeleton.empty(paths)
            with self._expanded(None):
                if checked:
                    self._judge(walk, checked, states[len(chunks) :])
                tokens = self._finish(walk, chunks, states)
        finally:
            skeleton.empty(skeleton.paths())
        tokens.notes.extend(notes)
        return tokens, {variant: tuple(rows) for variant, rows in self._statistics.items()}

    def _read(self, paths: list[str], layer: int | None) -> dict[str, Tensor]:
        with _room(layer):
            return self._skeleton.read(paths)

    def _fill(self, tensors: dict[str, Tensor], layer: int | None) -> None:
        with _room(layer):
            self._skeleton.fill(tensors)

    def _begin(self, walk: Walk, chunks: tuple[Tensor, ...]) -> tuple[list[Tensor], list[list[LayerCall]]]:
        """Hidden states before the first layer and the calls of all layers, by chunk."""
        n_variants = len(self._spec.variants)
        begun = [walk.begin(ids.repeat(n_variants, 1).to(self._skeleton.device)) for ids in chunks]
        return [hidden for hidden, _ in begun], [calls for _, calls in begun]

    @contextmanager
    def _expanded(self, layer: str | None) -> Iterator[None]:
        """The linear layers whose path begins with ``layer`` (None: the output head) hold one weight per variant."""
        wanted = [
            site for site in self._sites if (site.is_head if layer is None else site.name.startswith(layer))
        ]
        if layer is None and not any(variant.head for variant in self._spec.variants):
            wanted = []
        try:
            for site in wanted:
                self._expand(site)
            yield
        finally:
            for site in wanted:
                replace_module(self._skeleton.model, site.name, site.module)

    def _expand(self, site: LinearSite) -> None:
        with room_for(f"all variants of {site.name}", ADVICE):
            stacked, statistics = expand_site(
                site, self._spec.variants, self._spec.vocab_rows, self._tensor_level
            )
        expanded = VariantLinear(stacked, site.module.bias)  # type: ignore[arg-type]
        replace_module(self._skeleton.model, site.name, expanded)
        for variant, row in statistics.items():
            self._statistics[variant].append(row)

    def _judge(self, walk: Walk, checked: tuple[Tensor, ...], states: list[Tensor]) -> None:
        """CheckpointError for a model that is not to be measured."""
        model, variants, device = self._skeleton.model, len(self._spec.variants), self._skeleton.device

        def logits(ids: Tensor, hidden: Tensor) -> Tensor:
            folded = ids.repeat(variants, 1).to(device)
            out = walk.finish(hidden, partial(_call, input_ids=folded, use_cache=False, return_dict=True))
            baseline: Tensor = out.logits[0].clone()  # the other variants are let go
            return baseline

        self._check.judge(model, map(logits, checked, states))

    def _finish(self, walk: Walk, chunks: tuple[Tensor, ...], states: list[Tensor]) -> TokenResults:
        """Norm, head and comparison of every chunk; each chunk's hidden states are dropped after it."""
        parts = []
        for index, ids in enumerate(chunks):
            compare = partial(
                forward_chunk,
                n_variants=len(self._spec.variants),
                ids_NT=ids.to(self._skeleton.device),
                measurements=self._token_level,
            )
            parts.append(walk.finish(states[index], compare))
            states[index] = states[index].new_empty(0)
        dtypes = {name: dtype for each in self._token_level for name, dtype in each.values.items()}
        return TokenResults(
            {
                name: np.concatenate([part[name] for part in parts], axis=1, dtype=dtype)
                for name, dtype in dtypes.items()
            }
        )


def _room(layer: int | None) -> AbstractContextManager[None]:
    """For the weights of ``layer``, None = outside of the layers."""
    return room_for(
        "the weights outside of the layers" if layer is None else f"the weights of layer {layer}", ADVICE
    )


def _call(model: nn.Module, **inputs: Any) -> Any:
    return model(**inputs)


def _advance(layer: nn.Module, index: int, states: list[Tensor], calls: list[list[LayerCall]]) -> None:
    """Replaces the hidden states of every chunk by what layer ``index`` makes of them."""
    for chunk, call in enumerate(calls):
        states[chunk] = call[index](layer, states[chunk])
