"""The prober: measures checkpoints and models in memory, reading and hashing in the background.

Separate threads hash a checkpoint's files during reading and computing: the files are read twice at about the same
time, the second time from the page cache. The hashed bytes are the measured ones because the files' metadata is the
same before and after both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.base.errors import CheckpointError
from pipeline.measurements import CheckpointMeasurement, selected
from pipeline.measurements.hooks import checkpoint_notes, checkpoint_values, refuse_whole_models
from pipeline.measurements.measurement import Moments
from pipeline.models.arithmetic import float32_products, has_triton, require_arithmetic
from pipeline.models.loading import build_model, check_sha256, read_config, read_weights
from pipeline.probe.backend import Backend, TorchBackend
from pipeline.probe.engine import Engine
from pipeline.probe.memory_weights import ModelWeights, plain_copy
from pipeline.probe.notes import config_notes
from pipeline.probe.prefetch import Prefetcher
from pipeline.probe.reading import DeviceWeights, Reader
from pipeline.probe.result import Measurement, measurement
from pipeline.probe.weights import FileWeights, LayerWeights, WholeWeights
from pipeline.spec import ProbeSpec
from pipeline.suites import Unchanged, weights_sha256
from pipeline.suites.optimizer_moments import keeps_moments, read_moments

NOTE = "measured layer by layer"


@dataclass(frozen=True)
class _Hashed:
    """Hash of a checkpoint in progress."""

    sha256: str
    files: Unchanged
    """The files' metadata before hashing."""


class Prober:
    """Measures checkpoints of one suite with one set of tokens on one device, and keeps its state between them."""

    def __init__(
        self,
        spec: ProbeSpec,
        tokens: np.ndarray,
        device: str = "cpu",
        *,
        backend: Backend | None = None,
        calibration: np.ndarray | None = None,
    ) -> None:
        """``tokens``: int64 (batches, batch_size, seq_len) of ``spec``. ``calibration``: int64 (sequences, T),
        for variants that need it. ``backend``: None = the fastest of the device.
        """
        self.spec, self.device = spec, torch.device(device)
        self._sequences = _checked(spec, tokens)
        if backend is None:
            require_arithmetic(spec.arithmetic, device)
            backend = choose_backend(spec, self.device)
        self._engine = Engine(spec, self._sequences, self.device, backend, calibration)
        self.calibration_tokens = 0 if calibration is None else calibration.size
        self._of_model = selected(spec.measurements, CheckpointMeasurement)
        self._reader = reader = Reader(self.device)
        self._ahead: Prefetcher[DeviceWeights] = Prefetcher(lambda folder, _: reader.read(folder))
        """Prefetcher of whole checkpoints."""
        # The hash of the current checkpoint is taken at its end, and takes about as long as measuring.
        self.hashes: Prefetcher[_Hashed] = Prefetcher(_hashed, most=2)
        self._layers = Reader(self.device)

    @property
    def layer_by_layer(self) -> LayeredProber:
        """A prober with the same numbers for checkpoints that do not fit the memory as a whole."""
        return LayeredProber(self)

    def prefetch(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Start to load the checkpoint in ``folder`` in the background, for the next :meth:`measure` of it."""
        self._ahead.start(folder, expected_sha256)
        self.hashes.start(folder, expected_sha256)

    def forget(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Discard what :meth:`prefetch` started and no :meth:`measure` has used."""
        self._ahead.forget(folder, expected_sha256)
        self.hashes.forget(folder, expected_sha256)

    def measure(
        self, folder: Path, expected_sha256: str | None = None, *, beside: Path | None = None
    ) -> Measurement:
        """Measure the checkpoint in ``folder``, and its weights under the rounding errors of that in ``beside``.

        Raises CheckpointError if it is unusable; the message does not repeat the checkpoint's name.
        """
        return self._measure(
            folder,
            expected_sha256,
            lambda: WholeWeights(folder, self._ahead.take(folder, expected_sha256)),
            beside=beside,
        )

    def measure_layers(self, folder: Path, expected_sha256: str | None = None) -> Measurement:
        """Like :meth:`measure`, but layer by layer; loading only opens the files."""
        refuse_whole_models(self._of_model)
        return self._measure(
            folder, expected_sha256, lambda: LayerWeights(folder, self._layers), notes=(NOTE,)
        )

    def measure_model(self, model: torch.nn.Module, stored: torch.dtype | None = None) -> Measurement:
        """Measure ``model``, which stays unchanged, with the numbers of a checkpoint with the same values.

        It may be on any device, in training mode, and in any floating dtype; its parameters are upcast to float32.
        ``stored``: a shorter dtype in which its values are exact, if any: a GPU then multiplies faster.
        """
        loaded = time.perf_counter()
        self._reset_peak()
        columns = self._columns_of(lambda: plain_copy(model)) if self._of_model else {}
        numbers = self._engine.run(ModelWeights(model, stored))
        numbers.notes.extend(checkpoint_notes(self._of_model, columns))
        return measurement(
            self.spec, self.device, numbers, columns, weights_sha256="", load_s=0.0, loaded=loaded
        )

    def _measure(
        self,
        folder: Path,
        expected_sha256: str | None,
        load: Callable[[], FileWeights],
        notes: tuple[str, ...] = (),
        beside: Path | None = None,
    ) -> Measurement:
        self._reset_peak()
        self.hashes.start(folder, expected_sha256)
        with self._damage_first(folder, expected_sha256):
            weights = load()
        loaded, load_s = time.perf_counter(), weights.load_s
        with weights.files:  # hashing may start before or after this
            with self._damage_first(folder, expected_sha256):
                columns = self._columns_of(
                    lambda: build_model(read_config(folder), read_weights(folder)), self._moments(folder)
                )
                other = None if beside is None else WholeWeights(beside, self._reader.read(beside))
                numbers = self._engine.run(weights, other)
            sha256 = self._sha256(folder, expected_sha256)
        numbers.notes.extend((*notes, *checkpoint_notes(self._of_model, columns), *config_notes(folder)))
        return measurement(
            self.spec, self.device, numbers, columns, weights_sha256=sha256, load_s=load_s, loaded=loaded,
            beside_sha256="" if beside is None else _hashed(beside, None).sha256,
        )  # fmt: skip

    def _moments(self, folder: Path) -> Moments | None:
        """Adam's state beside the weights, where a measurement takes it and it is there."""
        wanted = any(each.takes_moments for each in self._of_model) and keeps_moments(folder)
        return read_moments(folder) if wanted else None

    def _columns_of(
        self, make: Callable[[], torch.nn.Module], moments: Moments | None = None
    ) -> dict[str, Any]:
        """Checkpoint-level columns of the unquantized float32 model that ``make`` returns."""
        if not self._of_model:
            return {}
        tokens = torch.from_numpy(self._sequences).to(self.device)
        with float32_products(self.device):
            return checkpoint_values(self._of_model, make().to(self.device), tokens, moments)

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def _damage_first(self, folder: Path, expected_sha256: str | None) -> Iterator[None]:
        """If the files are damaged, reports that instead of the error it caused."""
        try:
            yield
        except CheckpointError:
            self._sha256(folder, expected_sha256)
            raise

    def _sha256(self, folder: Path, expected_sha256: str | None) -> str:
        """The hash of the files, which are unchanged since ``files`` was taken."""
        hashed = self.hashes.take(folder, expected_sha256)
        hashed.files.check()
        return hashed.sha256


class LayeredProber:
    """A prober that measures layer by layer."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    def prefetch(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Do nothing: a layer is read while the one before computes, and hashing starts with the first, so that a
        file larger than the page cache is read from disk once.
        """

    def forget(self, folder: Path, expected_sha256: str | None = None) -> None:
        """Discard what a failed :meth:`measure` has started."""
        self._prober.forget(folder, expected_sha256)

    def measure(
        self, folder: Path, expected_sha256: str | None = None, *, beside: Path | None = None
    ) -> Measurement:
        """Measure the checkpoint in ``folder``.

        Raises CheckpointError if it is unusable, its architecture cannot be run layer by layer, or the errors of
        another checkpoint are wanted ``beside``; the message does not repeat the checkpoint's name.
        """
        if beside is not None:
            raise CheckpointError(
                "--swap needs the weights of two checkpoints in memory, and these are measured layer by layer: leave "
                "it out, or measure on a larger device"
            )
        return self._prober.measure_layers(folder, expected_sha256)


def choose_backend(spec: ProbeSpec, device: torch.device) -> Backend:
    """The Triton backend on a GPU with Triton, else the torch backend."""
    if device.type != "cuda" or not has_triton():
        return TorchBackend(spec, device)
    from pipeline.probe.gpu.triton_backend import TritonBackend

    return TritonBackend(spec, device)


def _checked(spec: ProbeSpec, tokens: np.ndarray) -> np.ndarray:
    """``tokens`` of ``spec`` as (sequences, seq_len)."""
    wanted = (spec.shape.batches, spec.shape.batch_size, spec.shape.seq_len)
    if tokens.shape != wanted or tokens.dtype != np.int64:
        raise ValueError(f"tokens of {tokens.dtype} {tokens.shape}: wanted int64 {wanted}")
    return tokens.reshape(-1, spec.shape.seq_len)


def _hashed(folder: Path, expected_sha256: str | None) -> _Hashed:
    with Unchanged(folder) as files:
        sha256 = weights_sha256(folder)
        check_sha256(folder, sha256, expected_sha256)
    return _Hashed(sha256, files)
