"""Distinguish out-of-memory errors of weights from those of a chunk of sequences.

A chunk that does not fit is halved. Weights need the same memory for any chunk, so halving would only repeat the
work and finally blame the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from pipeline.base.english import counted
from pipeline.base.errors import CheckpointError, InsufficientMemoryError

Result = TypeVar("Result")

_SIGNS = ("out of memory", "can't allocate memory")
"""Texts of errors without their own type: pinned memory by CUDA, host memory by torch."""


@contextmanager
def room_for(what: str, advice: str) -> Iterator[None]:
    """Context manager: an out-of-memory error becomes InsufficientMemoryError for ``what``, with ``advice``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise InsufficientMemoryError(f"no memory is left for {what} ({told}): {advice}") from error


def is_shortage(error: Exception) -> bool:
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or any(sign in str(error) for sign in _SIGNS)


def in_smaller_chunks(work: Callable[[int], Result], chunk: int, what: str, notes: list[str]) -> Result:
    """Run ``work`` with ``chunk`` sequences at a time, or with as many as fit a GPU, which is added to ``notes``.

    Raises CheckpointError, which names ``what``, if one sequence does not fit.
    """
    while True:
        try:
            return work(chunk)
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise CheckpointError(
                    f"{what} does not fit the GPU: use a shorter --seq-len, fewer variants or fewer batches"
                ) from None
        chunk //= 2
        notes.append(f"GPU out of memory: chunk reduced to {counted(chunk, 'sequence')}")
        torch.cuda.empty_cache()
