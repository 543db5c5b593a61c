"""Whether one text repeats another: runs of consecutive tokens that both hold.

Calibration text overlaps the evaluation text where the two share a run of ``RUN_TOKENS`` tokens, or of a whole sequence
where sequences are shorter. Fifty tokens are the length from which Lee et al., "Deduplicating Training Data Makes
Language Models Better" (2022, arXiv 2107.06499, section 4.1), call a repetition a duplicate: shorter ones are phrases
that a language has. Runs are compared by 64-bit hashes of their tokens. Equal runs have equal hashes, so what is found
to be disjoint is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RUN_TOKENS = 50
"""Consecutive tokens that two texts share by copying, not by chance."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no token of a run is shifted out of its hash."""

Ids = NDArray[np.integer[Any]]


class KnownRuns:
    """The runs of tokens of one text."""

    def __init__(self, tokens: Ids, sequence_length: int) -> None:
        """``tokens``: any shape, read in C order; ``sequence_length``: of what is to be compared with it, in tokens."""
        self._tokens = np.ravel(tokens)
        self.length = run_length(sequence_length)
        """Tokens of a run."""
        self._hashes = np.unique(run_hashes(self._tokens, self.length))

    def repeated(self, tokens: Ids) -> NDArray[np.bool_]:
        """Whether the text contains each run of ``tokens`` (..., T): bool (..., T - length + 1)."""
        return np.isin(run_hashes(tokens, self.length), self._hashes)

    def holds(self, tokens: Ids) -> bool:
        """Whether all of ``tokens`` (1-D) stand in the text, one after the other."""
        if len(tokens) > self.length and not self.repeated(tokens).all():
            return False
        return bool(np.isin(run_hashes(tokens, len(tokens)), run_hashes(self._tokens, len(tokens))).all())


def run_length(sequence_length: int) -> int:
    """Tokens of a run, where sequences have ``sequence_length``."""
    return min(RUN_TOKENS, sequence_length)


def run_hashes(tokens: Ids, length: int) -> NDArray[np.uint64]:
    """A hash of every run of ``length`` tokens along the last axis: uint64 (..., max(0, T - length + 1))."""
    count = max(0, tokens.shape[-1] - length + 1)
    hashes = np.zeros((*tokens.shape[:-1], count), np.uint64)
    wide = tokens.astype(np.uint64)
    for offset in range(length if count else 0):
        hashes = (hashes * _MULTIPLIER) ^ (wide[..., offset : offset + count] + np.uint64(1))
    return hashes
