"""What a ``Prober`` delegates to on a GPU: a reader one checkpoint ahead and the engine that measures."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.probe.evaluate import TokenResults
from pipeline.probe.gpu.engine import Engine
from pipeline.probe.gpu.reading import DeviceWeights, Reader
from pipeline.probe.prefetch import Prefetcher
from pipeline.probe.quantized import TensorStatistics
from pipeline.spec import ProbeSpec, Variant


class GpuProber:
    """The warm state of one device."""

    def __init__(self, spec: ProbeSpec, sequences: np.ndarray, device: torch.device) -> None:
        self.ahead: Prefetcher[DeviceWeights] = Prefetcher(Reader(device).read)
        self._engine = Engine(spec, sequences, device)

    def measure(
        self, folder: Path, expected_sha256: str | None
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]], str, float, float]:
        """Per-token results, tensor statistics, hash of the weights, seconds of loading and when that was done."""
        weights = self.ahead.take(folder, expected_sha256)
        loaded = time.perf_counter()
        tokens, statistics = self._engine.run(folder, weights)
        return tokens, statistics, weights.sha256, weights.load_s, loaded

    def keep(self, folder: Path) -> None:
        """Learns from the checkpoint in ``folder`` how its like are stored."""
        self._engine.prepare(folder, self.ahead.take(folder, None))

    def measure_model(
        self, model: nn.Module
    ) -> tuple[TokenResults, dict[Variant, tuple[TensorStatistics, ...]]]:
        """Per-token results and tensor statistics of ``model``, as a checkpoint stored like the one kept."""
        return self._engine.run_model(model.state_dict())
