"""What the driver learns of GPUs, and what it does not load for it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base import devices


class Cuda:
    """The CUDA driver of a machine with two devices of 80 and 40 GiB."""

    sizes = (80 * 2**30, 40 * 2**30)

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count) -> int:
        count._obj.value = len(self.sizes)
        return 0

    def cuDeviceGet(self, device, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceTotalMem_v2(self, total, device) -> int:
        total._obj.value = self.sizes[device.value]
        return 0


class NoDevice(Cuda):
    def cuInit(self, flags: int) -> int:
        return 100


@pytest.mark.parametrize(
    ("library", "built_with_cuda", "found"),
    [(Cuda, True, Cuda.sizes), (Cuda, False, ()), (NoDevice, True, ())],
)
def test_memory_of_every_usable_device(
    monkeypatch: pytest.MonkeyPatch, library: type, built_with_cuda: bool, found: tuple[int, ...]
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library())
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: built_with_cuda)
    assert devices.cuda_memory() == found


def test_no_driver_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(devices, "_LIBRARY", "libcuda-that-is-not-there.so")
    assert devices.cuda_memory() == ()


def test_torch_says_how_it_was_built() -> None:
    import torch

    assert devices._torch_has_cuda() == (torch.version.cuda is not None)


def test_the_driver_of_an_audit_loads_no_torch() -> None:
    script = (
        "import sys\nimport jobs.audit, jobs.suite_argument, pipeline.runs.audit_request\n"
        "import pipeline.runs.execute, pipeline.kinds.audit_work, pipeline.driver\n"
        "pipeline.driver.resolve_device(pipeline.driver.Resources())\n"
        "print({'torch', 'transformers', 'scipy', 'polars'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ended.stdout.strip() == "set()"
