"""Launching kernels, and compiling them side by side before the first launch.

Triton compiles a kernel where it is first launched, one after the other: about twelve kernels of a second each, and
where the machine has never run them a C compiler for each one's launcher. :func:`compiling` turns the launches of
a block into compilations in as many threads as there are cores: run the code once in it, on tensors of the right dtypes
and widths (their values are never looked at, and what the kernels would have written stays undefined), and all is
there when it is run again. Triton keeps the results on disk (``TRITON_CACHE_DIR``), so it is paid once per machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import triton

MOST_THREADS = 16
_compiled: ContextVar[list[Any] | None] = ContextVar("compiled", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """``kernel[grid](*args, **options)``; within :func:`compiling` the kernel is compiled for them and not run."""
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*args, **options)
    else:
        compiled.append(kernel.warmup(*args, grid=grid, **options))


@contextmanager
def compiling() -> Iterator[None]:
    """What is launched in this block is compiled instead, concurrently; all is ready when the block ends."""
    compiled: list[Any] = []
    token = _compiled.set(compiled)
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            with triton.AsyncCompileMode(pool):
                yield
        finally:
            _compiled.reset(token)
        list(pool.map(_load, compiled))


def _load(kernel: Any) -> None:
    """Loads what ``warmup`` returned onto the device, and builds its launcher (None: through the interpreter)."""
    if kernel is not None:
        kernel = kernel.result() if hasattr(kernel, "result") else kernel
        kernel.run  # noqa: B018 - made by the first look at it
