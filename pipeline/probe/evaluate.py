"""One forward of all variants over the evaluation tokens, compared token by token while the logits are there.

The variants are folded into the batch: the same N sequences appear V times, variants outermost, so that every
weight is read once per chunk and every comparison is paired. A chunk is a number of sequences, chosen by memory
alone; results are kept per token and summed afterwards, so they depend neither on the chunk nor on how the
sequences are grouped into batches.

Legend of shapes: V = variants, N = sequences, T = tokens per sequence, P = T - 1 predictions, K = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.measurements import TokenMeasurement
from pipeline.measurements.hooks import token_values
from pipeline.sizing import CPU_COMPARED_ROWS

ROWS_PER_BLOCK = CPU_COMPARED_ROWS
"""Predictions compared at a time: bounds the float32 temporaries of the softmax to a cache-friendly size."""


@dataclass
class TokenResults:
    """What the token level measured."""

    values: dict[str, np.ndarray]
    """(V, N, P) by name (``TokenMeasurement.values``); NaN where the model's logits are not finite."""
    notes: list[str] = field(default_factory=list)
    """What happened on the way that a reader of the numbers should know (chunks halved for memory)."""


def empty_results(
    measurements: Sequence[TokenMeasurement], shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """Room for every value of ``measurements``, each (V, N, P) = ``shape``."""
    return {
        name: np.empty(shape, dtype=dtype) for each in measurements for name, dtype in each.values.items()
    }


@torch.inference_mode()
def evaluate(
    model: Any,
    n_variants: int,
    tokens: np.ndarray,
    chunk: int,
    device: torch.device,
    *,
    measurements: Sequence[TokenMeasurement],
) -> TokenResults:
    """Runs ``tokens`` (int64 (N, T)) through all ``n_variants`` of ``model``, ``chunk`` sequences at a time.

    On a GPU that runs out of memory the chunk is halved and the same sequences are tried again; CheckpointError
    when one sequence does not fit.
    """
    n_sequences, n_predictions = tokens.shape[0], tokens.shape[1] - 1
    results = TokenResults(empty_results(measurements, (n_variants, n_sequences, n_predictions)))
    start = 0
    while start < n_sequences:
        stop = min(start + chunk, n_sequences)
        ids = torch.from_numpy(tokens[start:stop]).to(device)
        try:
            found = forward_chunk(model, n_variants, ids, measurements)
        except torch.OutOfMemoryError:
            if stop - start == 1:
                raise CheckpointError(
                    f"one sequence of {tokens.shape[1]} tokens in {n_variants} variants does not fit the GPU: "
                    "use a shorter --seq-len or fewer variants"
                ) from None
            chunk = (stop - start) // 2
            results.notes.append(f"GPU out of memory: chunk reduced to {chunk} sequences")
            torch.cuda.empty_cache()
            continue
        for name, value in found.items():
            results.values[name][:, start:stop] = value
        start = stop
    return results


def forward_chunk(
    model: Any, n_variants: int, ids_NT: Tensor, measurements: Sequence[TokenMeasurement]
) -> dict[str, np.ndarray]:
    """Every value of ``measurements`` in one chunk, each (V, N, P)."""
    folded = ids_NT.repeat(n_variants, 1)
    logits = model(input_ids=folded, use_cache=False, return_dict=True).logits
    logits_VNTK = logits.view(n_variants, *ids_NT.shape, -1)
    compared = [
        compare(logits_VNTK[:, sequence, :-1], ids_NT[sequence, 1:], measurements)
        for sequence in range(ids_NT.shape[0])
    ]
    return {name: torch.stack([each[name] for each in compared], dim=1).cpu().numpy() for name in compared[0]}


def compare(
    logits_VPK: Tensor, targets_P: Tensor, measurements: Sequence[TokenMeasurement]
) -> dict[str, Tensor]:
    """Every value of ``measurements``, (V, P); variant 0 is what the others are compared with."""
    blocks = [
        token_values(
            measurements,
            logits_VPK[:, start : start + ROWS_PER_BLOCK],
            targets_P[start : start + ROWS_PER_BLOCK],
        )
        for start in range(0, targets_P.shape[0], ROWS_PER_BLOCK)
    ]
    return {name: torch.cat([block[name] for block in blocks], dim=1) for name in blocks[0]}
