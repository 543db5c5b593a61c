"""What the probers delegate to on a GPU: reading and hashing, ahead of it, and the engine that measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.probe.evaluate import TokenResults
from pipeline.probe.gpu.engine import Engine
from pipeline.probe.gpu.layers import LayerWeights, Weights, WholeWeights
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
    """The warm state of one device.

    A checkpoint's files are hashed by threads of their own, beside reading and computing: read twice, at the same time,
    so the second time from the page cache. That the bytes which were hashed are those which were measured follows, as
    far as the file system tells, from the files being the same before either and after both.
    """

    def __init__(self, spec: ProbeSpec, sequences: np.ndarray, device: torch.device) -> None:
        reader = Reader(device)
        self._ahead: Prefetcher[DeviceWeights] = Prefetcher(lambda folder, _: reader.read(folder))
        """Whole checkpoints."""
        # The hash of the one that is measured is not taken before the end, and takes about as long.
        self.hashes: Prefetcher[_Hashed] = Prefetcher(_hashed, most=2)
        self._layers = Reader(device)
        self._engine = Engine(spec, sequences, device)

    def start(self, folder: Path, expected_sha256: str | None) -> None:
        """Starts to read and to hash the checkpoint in ``folder``, which is to be measured as a whole."""
        self._ahead.start(folder, expected_sha256)
        self.hashes.start(folder, expected_sha256)

    def forget(self, folder: Path, expected_sha256: str | None) -> None:
        """Lets go what :meth:`start` began and no :meth:`measure` has used."""
        self._ahead.forget(folder, expected_sha256)
        self.hashes.forget(folder, expected_sha256)

    def measure(self, folder: Path, expected_sha256: str | None) -> Found:
        """Measures the checkpoint in ``folder``, which is there as a whole."""
        return self._measure(
            folder, expected_sha256, lambda: WholeWeights(self._ahead.take(folder, expected_sha256))
        )

    def measure_layers(self, folder: Path, expected_sha256: str | None) -> Found:
        """The same layer by layer, where loading is to open the files."""
        return self._measure(folder, expected_sha256, lambda: LayerWeights(folder, self._layers))

    def _measure(self, folder: Path, expected_sha256: str | None, load: Callable[[], Weights]) -> Found:
        self.hashes.start(folder, expected_sha256)
        with self._damage_first(folder, expected_sha256):
            weights = load()
        loaded = time.perf_counter()
        with weights.files:  # hashing may have begun before, and may begin later
            with self._damage_first(folder, expected_sha256):
                tokens, statistics = self._engine.run(folder, weights)
            sha256 = self._sha256(folder, expected_sha256)
        return Found(tokens, statistics, sha256, weights.load_s, loaded)

    @contextmanager
    def _damage_first(self, folder: Path, expected_sha256: str | None) -> Iterator[None]:
        """Of what is wrong with the checkpoint, that its files are damaged is the better reason."""
        try:
            yield
        except CheckpointError:
            self._sha256(folder, expected_sha256)
            raise

    def _sha256(self, folder: Path, expected_sha256: str | None) -> str:
        """Of files that are since then the same."""
        hashed = self.hashes.take(folder, expected_sha256)
        hashed.files.check()
        return hashed.sha256

    def keep(self, folder: Path) -> None:
        """Learns from the checkpoint in ``folder`` how its like are stored."""
        self._engine.prepare(folder, WholeWeights(self._ahead.take(folder, None)))

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
