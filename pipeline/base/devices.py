"""Which GPUs this process may use, asked without importing torch, which takes seconds on every start."""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
from pathlib import Path

_LIBRARY = "libcuda.so.1"


def cuda_memory() -> tuple[int, ...]:
    """Bytes of each CUDA device that the process may use (``CUDA_VISIBLE_DEVICES`` counts).

    Empty without a device or its driver, and where the installed torch was built without CUDA and so could not use it.
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
            f"the CUDA driver counts device {index} and does not say its memory: restart it, or use cpu"
        )
    return total.value


def _torch_has_cuda() -> bool:
    """As ``torch.version.cuda`` says, which is a file of assignments."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    return runpy.run_path(str(Path(found.origin).with_name("version.py"))).get("cuda") is not None
