"""The arithmetics of a device, and the default one.

``split`` needs Triton and the float16 tensor cores of compute capability 8.0 or later with products that accumulate and
return float32. It takes every stored dtype: float16 and bfloat16 weights are exact in it, float32 weights are split as
well. It is the default wherever it runs, because it is no less accurate than ``ieee`` and several times faster.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import torch

from pipeline.base.errors import UsageError

_LEAST_CAPABILITY = (8, 0)


def available_arithmetics(device: str) -> tuple[str, ...]:
    """Arithmetics of ``device`` (a torch device name), the default first."""
    if torch.device(device).type != "cuda":
        return ("ieee",)
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return ("ieee",)
    return ("split", "ieee", "tf32") if has_triton() else ("ieee", "tf32")


def choose_arithmetic(device: str) -> str:
    return available_arithmetics(device)[0]


def require_arithmetic(arithmetic: str, device: str) -> None:
    """Raise UsageError if ``device`` cannot compute in ``arithmetic``."""
    offered = available_arithmetics(device)
    if arithmetic not in offered:
        raise UsageError(
            f"arithmetic {arithmetic!r} is not available on {device}: wanted {', '.join(offered)}"
        )


def has_triton() -> bool:
    """Whether Triton can be imported; does not import it."""
    return importlib.util.find_spec("triton") is not None


@contextlib.contextmanager
def float32_products(device: torch.device, *, tf32: bool = False) -> Iterator[None]:
    """Context manager: float32 products on ``device`` in float32, or in TF32, whatever the process's settings."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
