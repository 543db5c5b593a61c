"""What the driver learns of GPUs, and what it does not load for it."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base import devices

SIZES = (80 * 2**30, 40 * 2**30)


def cuda(started: int) -> SimpleNamespace:
    """The CUDA driver of a machine with two devices of 80 and 40 GiB, whose ``cuInit`` returns ``started``."""
    number = ctypes.POINTER(ctypes.c_int)

    @ctypes.CFUNCTYPE(ctypes.c_int, number)
    def count_devices(count: Any) -> int:
        count[0] = len(SIZES)
        return 0

    @ctypes.CFUNCTYPE(ctypes.c_int, number, ctypes.c_int)
    def device_of(device: Any, index: int) -> int:
        device[0] = index
        return 0

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_size_t), ctypes.c_int)
    def memory_of(total: Any, device: int) -> int:
        total[0] = SIZES[device]
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: started, cuDeviceGetCount=count_devices, cuDeviceGet=device_of,
        cuDeviceTotalMem_v2=memory_of,
    )  # fmt: skip


@pytest.fixture
def built_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Has the installed torch say that it was built with this version of CUDA."""

    def build(version: str | None) -> None:
        (tmp_path / "version.py").write_text(f"cuda = {version!r}\n")
        found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)

    return build


@pytest.mark.parametrize(
    ("started", "version", "found"), [(0, "12.8", SIZES), (0, None, ()), (100, "12.8", ())]
)
def test_memory_of_every_usable_device(
    monkeypatch: pytest.MonkeyPatch, built_with: Callable[[str | None], None], started: int,
    version: str | None, found: tuple[int, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda(started))
    built_with(version)
    assert devices.cuda_memory() == found


def test_no_driver_is_no_device(
    monkeypatch: pytest.MonkeyPatch, built_with: Callable[[str | None], None]
) -> None:
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: load("libcuda-that-is-not-there.so"))
    built_with("12.8")
    assert devices.cuda_memory() == ()


def test_torch_says_how_it_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(ctypes, "CDLL", lambda name: cuda(0))
    assert devices.cuda_memory() == (SIZES if torch.version.cuda is not None else ())


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
