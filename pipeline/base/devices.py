"""Which GPUs this process may use, found without importing torch, which takes seconds."""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
from pathlib import Path

_LIBRARY = "libcuda.so.1"


def cuda_memory() -> tuple[int, ...]:
    """Bytes of each CUDA device that the process may use (``CUDA_VISIBLE_DEVICES`` counts).

    Empty without a device or driver, and if the installed torch was built without CUDA.
    """
    if not _torch_has_cuda():
        return ()
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_bytes_of(cuda, index) for index in range(count.value))


def _bytes_of(cuda: ctypes.CDLL, index: int) -> int:
    device, total = ctypes.c_int(), ctypes.c_size_t()
    failed = cuda.cuDeviceGet(ctypes.byref(device), index)
    if failed or cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        raise OSError(
            f"the CUDA driver lists device {index} but does not report its memory: restart it, or use cpu"
        )
    return total.value


def _torch_has_cuda() -> bool:
    """Whether torch was built with CUDA, read from torch/version.py without importing torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    return runpy.run_path(str(Path(found.origin).with_name("version.py"))).get("cuda") is not None
