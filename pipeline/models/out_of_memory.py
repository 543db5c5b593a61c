"""Memory that runs out for weights, told apart from memory that runs out for a chunk of sequences.

A chunk that does not fit is halved. Weights take the same room whatever the chunk, so where they find none that would
only repeat the work until nothing is left to halve, and then blame the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from pipeline.base.errors import CheckpointError, InsufficientMemoryError

Result = TypeVar("Result")

_SIGNS = ("out of memory", "can't allocate memory")
"""Of an error that has no type of its own: pinned memory by CUDA, host memory by torch."""


@contextmanager
def room_for(what: str, advice: str) -> Iterator[None]:
    """NoRoomError for ``what``, with ``advice`` on what to do, where memory runs out in the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise InsufficientMemoryError(f"no memory is left for {what} ({told}): {advice}") from error


def is_shortage(error: Exception) -> bool:
    """Whether ``error`` says that memory has run out."""
    typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return typed or any(sign in str(error) for sign in _SIGNS)


def in_smaller_chunks(work: Callable[[int], Result], chunk: int, what: str, notes: list[str]) -> Result:
    """``work`` with ``chunk`` sequences at a time, or as many as a GPU has memory for, of which ``notes`` then tells.

    ``CheckpointError`` that names ``what`` where one sequence is too many.
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
        notes.append(f"GPU out of memory: chunk reduced to {chunk} sequences")
        torch.cuda.empty_cache()
