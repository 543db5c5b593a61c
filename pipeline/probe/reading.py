"""Read weights from disk to the GPU during other computation.

A file is read in pieces into a few pinned buffers; each piece is copied to the GPU by a stream of its own while the
next is read, so that a checkpoint takes as long as reading its file (4 GB/s measured from the page cache, against 50 of
copying). The file is copied unchanged; its tensors are views of it in the stored dtype. Finiteness is checked on
the GPU, where it costs one pass at memory speed. A checkpoint that is measured layer by layer is read in the same
way, some tensors at a time.

Nothing is hashed on the way. SHA-256 does 1.2 GB/s on a core: a checkpoint of Pythia-160m would take as long to read as
to measure. Other threads read the files again to hash them (``prober.py``), and the hash is needed only at the end.
The weights therefore come with their files' metadata from before (``Unchanged``), to be compared then.

Other formats than safetensors are read by ``loading`` and copied.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.base.errors import CheckpointError
from pipeline.models.loading import WANTED_DTYPES, present, read_file, refuse_non_finite, refuse_other_dtypes
from pipeline.models.out_of_memory import room_for
from pipeline.models.placeholders import WeightIndex
from pipeline.suites.checkpoint_files import assigned_tensors
from pipeline.suites.unchanged import Unchanged

PIECE_BYTES = 2**25
PIECES = 3

WHOLE_ADVICE = "measure layer by layer (--stream), or use fewer workers per GPU"
HOST_ADVICE = "free memory on its node, or use fewer workers there"

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_OTHER_DTYPES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F4": "float4_e2m1fn_x2"}
"""Names of torch's formats that plain weights never have."""


@dataclass
class DeviceWeights:
    """File's name -> tensor of one checkpoint on a device, in the stored dtype."""

    tensors: dict[str, Tensor]
    files: Unchanged
    """The files' metadata before reading."""
    load_s: float

    def use(self, device: torch.device) -> None:
        """Tell the allocator that the current stream uses the tensors, which another stream allocated."""
        if device.type == "cuda":
            for tensor in self.tensors.values():
                tensor.record_stream(torch.cuda.current_stream(device))


class Reader:
    """Reads checkpoints for one device, one at a time; keeps its buffers and stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._pieces: list[Tensor] = []

    @torch.inference_mode()
    def read(self, folder: Path) -> DeviceWeights:
        """Read and check the weights in ``folder``; raises the errors of ``loading.read_weights`` except those of
        the hash.
        """
        start = time.perf_counter()
        tensors: dict[str, Tensor] = {}
        with (
            Unchanged(folder) as files,
            room_for("the weights as a whole", WHOLE_ADVICE),
            self._on_stream(),
        ):
            for file, names in assigned_tensors(folder).items():
                if file.suffix == ".safetensors":
                    self._read_file(file, names, tensors)
                else:
                    tensors |= {
                        name: stored.to(self.device) for name, stored in read_file(file, names).items()
                    }
            if not tensors:
                raise CheckpointError(f"the weight files in {folder} hold no tensors")
            refuse_other_dtypes(tensors)
            _check_finite(tensors)
        if self._stream is not None:
            self._stream.synchronize()
        return DeviceWeights(tensors, files, time.perf_counter() - start)

    @torch.inference_mode()
    def read_some(self, index: WeightIndex, names: Iterable[str]) -> dict[str, Tensor]:
        """Read and check only the named tensors of a checkpoint."""
        tensors: dict[str, Tensor] = {}
        with self._on_stream():
            for file, wanted in index.by_file(names).items():
                if file.suffix == ".safetensors":
                    self._read_places(file, wanted, tensors)
                else:
                    tensors |= {
                        name: stored.to(self.device) for name, stored in read_file(file, wanted).items()
                    }
            _check_finite(tensors)
        if self._stream is not None:
            self._stream.synchronize()
        return tensors

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
        else:
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
                yield

    def _read_file(self, file: Path, names: Iterable[str] | None, tensors: dict[str, Tensor]) -> None:
        """Add the tensors ``names`` of ``file`` (None: all) to ``tensors``."""
        header, data_start = _header(file)
        size = file.stat().st_size
        # On the device the data begins at a multiple of 16 bytes, unlike in the file.
        shift = -data_start % 16
        buffer = torch.empty(shift + size, dtype=torch.uint8, device=self.device)
        self._copy(file, 0, buffer[shift:])
        for name in present(file, header, names):
            tensors[name] = _view(header[name], buffer, shift + data_start)

    def _read_places(self, file: Path, names: list[str], tensors: dict[str, Tensor]) -> None:
        """Add the tensors ``names`` of ``file`` to ``tensors``; neighbours in the file are read together."""
        header, data_start = _header(file)
        missing = [name for name in names if name not in header]
        if missing:
            raise CheckpointError(f"{file} no longer holds {missing[0]}: it was replaced while it was read")
        entries = sorted((header[name]["data_offsets"], name) for name in names)
        runs: list[list[tuple[list[int], str]]] = []
        for (begin, end), name in entries:
            if not runs or runs[-1][-1][0][1] != begin:
                runs.append([])
            runs[-1].append(([begin, end], name))
        for run in runs:
            begin, end = run[0][0][0], run[-1][0][1]
            shift = (
                begin % 16
            )  # aligned as in the whole file, because kernels are compiled for the alignment of a weight's address
            buffer = torch.empty(shift + end - begin, dtype=torch.uint8, device=self.device)
            self._copy(file, data_start + begin, buffer[shift:])
            for _, name in run:
                tensors[name] = _view(header[name], buffer, shift - begin)

    def _copy(self, file: Path, start: int, target: Tensor) -> None:
        """Fill ``target`` (uint8) with the bytes of ``file`` from ``start`` on."""
        if not self._pieces:
            pin = self.device.type == "cuda"
            with room_for("the buffers in host memory that weights are read into", HOST_ADVICE):
                self._pieces = [
                    torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=pin) for _ in range(PIECES)
                ]
        copied: list[torch.cuda.Event | None] = [None] * PIECES
        offset = index = 0
        with file.open("rb", buffering=0) as opened:
            opened.seek(start)
            while offset < target.numel():
                event, piece = copied[index], self._pieces[index]
                if event is not None:
                    event.synchronize()
                view = memoryview(piece.numpy().data)[: target.numel() - offset]
                count = opened.readinto(view)
                if not count:
                    raise CheckpointError(f"{file} became shorter while it was read")
                target[offset : offset + count].copy_(piece[:count], non_blocking=True)
                if self._stream is not None:
                    copied[index] = self._stream.record_event()
                offset, index = offset + count, (index + 1) % PIECES
            if self._stream is not None:
                self._stream.synchronize()  # the buffers are free again


def _view(entry: dict[str, Any], buffer: Tensor, data_start: int) -> Tensor:
    """The tensor of the header's ``entry``, in a ``buffer`` whose data begins at ``data_start``."""
    begin, end = (data_start + offset for offset in entry["data_offsets"])
    dtype = _DTYPES[entry["dtype"]]
    raw = buffer[begin:end] if begin % dtype.itemsize == 0 else buffer[begin:end].clone()
    return raw.view(dtype).view(entry["shape"])


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Tensor name -> entry of a safetensors file, and the offset of its data."""
    try:
        with safe_open(file, framework="pt"):  # checks the header and that the file is complete
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is truncated or not safetensors: {error}") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            stored = _OTHER_DTYPES.get(entry["dtype"], entry["dtype"])
            raise CheckpointError(
                f"tensor {name} is stored as {stored}: wanted {WANTED_DTYPES}; "
                "measure the checkpoint that was quantized to it"
            )
    return header, 8 + length


def _check_finite(tensors: dict[str, Tensor]) -> None:
    """``refuse_non_finite`` with one synchronisation: NaN or Inf shows in the minimum or maximum."""
    extremes = [value.double() for run in _runs(tensors) for value in torch.aminmax(run)]
    if extremes and not torch.isfinite(torch.stack(extremes)).all():
        refuse_non_finite(tensors)


def _runs(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The floating tensors, with neighbours in memory joined, so that a busy GPU runs few kernels."""
    floating = [
        tensor.contiguous() for tensor in tensors.values() if tensor.is_floating_point() and tensor.numel()
    ]
    floating.sort(key=Tensor.data_ptr)
    runs: list[Tensor] = []
    for tensor in floating:
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.dtype == tensor.dtype
            and last.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
            and last.data_ptr() + last.nbytes == tensor.data_ptr()
        ):
            runs[-1] = last.as_strided((last.numel() + tensor.numel(),), (1,))
        else:
            runs.append(tensor.view(-1))
    return runs
