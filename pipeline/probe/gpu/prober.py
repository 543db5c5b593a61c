"""What the probers delegate to on a GPU: readers, one of them a checkpoint ahead, and the engine that measures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.probe.evaluate import TokenResults
from pipeline.probe.gpu.engine import Engine
from pipeline.probe.gpu.layers import LayerWeights, WholeWeights
from pipeline.probe.gpu.reading import DeviceWeights, Reader
from pipeline.probe.loading import check_sha256
from pipeline.probe.measure import Found
from pipeline.probe.prefetch import Prefetcher
from pipeline.probe.quantized import TensorStatistics
from pipeline.spec import ProbeSpec, Variant
from pipeline.suites import Unchanged, weights_sha256


@dataclass(frozen=True)
class _Hashed:
    """A checkpoint's hash."""

    sha256: str
    files: Unchanged
    """As they were before they were hashed."""


class GpuProber:
    """The warm state of one device."""

    def __init__(self, spec: ProbeSpec, sequences: np.ndarray, device: torch.device) -> None:
        self.ahead: Prefetcher[DeviceWeights] = Prefetcher(Reader(device).read)
        """Whole checkpoints."""
        self.hashes: Prefetcher[_Hashed] = Prefetcher(_hashed)
        """Of checkpoints that are measured layer by layer: their files are read once more for it."""
        self._layers = Reader(device)
        self._engine = Engine(spec, sequences, device)

    def measure(self, folder: Path, expected_sha256: str | None) -> Found:
        """Measures the checkpoint in ``folder``, which is there as a whole."""
        weights = self.ahead.take(folder, expected_sha256)
        loaded = time.perf_counter()
        tokens, statistics = self._engine.run(folder, WholeWeights(weights))
        return Found(tokens, statistics, weights.sha256, weights.load_s, loaded)

    def measure_layers(self, folder: Path, expected_sha256: str | None) -> Found:
        """The same layer by layer, where loading is to open the files."""
        start = time.perf_counter()
        self.hashes.start(folder, expected_sha256)
        with Unchanged(folder):  # hashing may have begun before, and may begin later
            try:
                weights = LayerWeights(folder, self._layers)
                loaded = time.perf_counter()
                tokens, statistics = self._engine.run(folder, weights)
            except CheckpointError:
                self._sha256(folder, expected_sha256)  # that its files are damaged is the better reason
                raise
            sha256 = self._sha256(folder, expected_sha256)
        return Found(tokens, statistics, sha256, loaded - start, loaded)

    def _sha256(self, folder: Path, expected_sha256: str | None) -> str:
        """Of files that are since then the same."""
        hashed = self.hashes.take(folder, expected_sha256)
        hashed.files.check()
        return hashed.sha256

    def keep(self, folder: Path) -> None:
        """Learns from the checkpoint in ``folder`` how its like are stored."""
        self._engine.prepare(folder, WholeWeights(self.ahead.take(folder, None)))

    def measure_model(
        self, model: nn.Module
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """Per-token results and tensor statistics of ``model``, as a checkpoint stored like the one kept."""
        return self._engine.run_model(model.state_dict())


def _hashed(folder: Path, expected_sha256: str | None) -> _Hashed:
    with Unchanged(folder) as files:
        sha256 = weights_sha256(folder)
        check_sha256(folder, sha256, expected_sha256)
    return _Hashed(sha256, files)
