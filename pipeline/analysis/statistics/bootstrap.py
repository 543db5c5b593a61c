"""Resampling: evaluation batches in paired blocks, trajectories in moving blocks; the jackknife over blocks of text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.statistics.curves import FloatArray, gap_from_nll

BATCH_BLOCK = 2
"""Neighbouring batches kept together (texts of one document fall into neighbouring batches)."""


def block_indices(rng: np.random.Generator, n: int, block: int, size: int) -> NDArray[np.int64]:
    """Indices of `size` circular-block bootstrap samples of n ordered items, shape (size, n).

    Source: Politis and Romano, "A circular block-resampling procedure for stationary data" (1992).
    """
    starts = rng.integers(0, n, size=(size, -(-n // block)))
    return ((starts[:, :, None] + np.arange(block)).reshape(size, -1)[:, :n]) % n


def block_length(n_batches: int) -> int:
    """Batches kept together: :data:`BATCH_BLOCK`, or fewer where there are not two such blocks."""
    return max(1, min(BATCH_BLOCK, n_batches // 2))


def batch_weights(rng: np.random.Generator, n_batches: int, size: int) -> FloatArray:
    """Share of each batch in each replicate, shape (n_batches, size); every column sums to 1."""
    picks = block_indices(rng, n_batches, block_length(n_batches), size)
    counts = np.zeros((size, n_batches))
    np.add.at(counts, (np.arange(size)[:, None], picks), 1.0)
    return counts.T / n_batches


def paired_replicates(
    fp32_batches: FloatArray, variant_batches: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """FP32 loss and gap on resampled batches, each (n, size); the same batches for both, at every step.

    fp32_batches, variant_batches: (n, n_batches) nats per token of equally long batches; weights: (n_batches,
    size).
    """
    fp32 = fp32_batches @ weights
    return fp32, gap_from_nll(variant_batches @ weights, fp32)


def paired_gap_se(fp32_batches: FloatArray, variant_batches: FloatArray) -> FloatArray:
    """Standard error of the gap over batches, by the delta method on paired differences; shape (n,).

    d(gap) = (1 + gap) d(mean difference). One batch gives NaN: no spread can be seen.
    """
    difference = np.asarray(variant_batches) - np.asarray(fp32_batches)
    n_batches = difference.shape[1]
    if n_batches < 2:
        return np.full(len(difference), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.exp(difference.mean(axis=1)) * difference.std(axis=1, ddof=1) / np.sqrt(n_batches)


def text_blocks(n_batches: int) -> list[NDArray[np.int64]]:
    """Batches that a jackknife leaves out together: :data:`BATCH_BLOCK`, or fewer where there are not two such
    blocks.
    """
    return np.array_split(np.arange(n_batches), max(2, n_batches // BATCH_BLOCK))


def without_each_block(batches: FloatArray) -> FloatArray:
    """Means over all batches (..., batches) but those of one block, (..., blocks)."""
    blocks = text_blocks(batches.shape[-1])
    return np.stack([np.delete(batches, block, axis=-1).mean(axis=-1) for block in blocks], axis=-1)


def jackknife_se(without: FloatArray) -> FloatArray:
    """Standard error over blocks, which are the last axis (Quenouille and Tukey's delete-one jackknife)."""
    n = without.shape[-1]
    return np.asarray(np.sqrt((n - 1) * without.var(axis=-1)))
