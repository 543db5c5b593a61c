"""Launch kernels, and compile them in parallel before the first launch.

Triton compiles each kernel at its first launch: about twelve kernels of a second each, and on a new machine a C
compiler run for each launcher. :func:`compiling` turns the launches of a block into compilations in as many threads
as cores: run the code once in it, on tensors with the right dtypes and widths (their values are not read, and
outputs stay undefined), and the next run finds all kernels compiled. Triton keeps the results on disk
(``TRITON_CACHE_DIR``), so it is paid once per machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import triton

MOST_THREADS = 16
_compiled: ContextVar[list[Any] | None] = ContextVar("compiled", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """``kernel[grid](*args, **options)``; inside :func:`compiling` the kernel is compiled and not run."""
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*args, **options)
    else:
        compiled.append(kernel.warmup(*args, grid=grid, **options))


def power_of_2(least: int) -> int:
    """The smallest power of two that is ``least`` or more; Triton's own takes 10 us, and a probe asks for hundreds."""
    return 1 << (least - 1).bit_length()


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-dividend // divisor)


@contextmanager
def compiling() -> Iterator[None]:
    """Context manager: launches compile in parallel instead of run; all are ready when the block ends.

    They compile one after the other before Python 3.12, whose parser counts its depth for all threads together: two
    kernels at once end in a SystemError now and then.
    """
    compiled: list[Any] = []
    token = _compiled.set(compiled)
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            with triton.AsyncCompileMode(pool) if sys.version_info >= (3, 12) else nullcontext():
                yield
        finally:
            _compiled.reset(token)
        list(pool.map(_load, compiled))


def _load(kernel: Any) -> None:
    """Load the result of ``warmup`` onto the device and build its launcher (None: interpreter)."""
    if kernel is not None:
        kernel = kernel.result() if hasattr(kernel, "result") else kernel
        kernel.run  # noqa: B018 - made by the first look at it
