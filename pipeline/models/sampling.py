"""Sample text from a model: temperature 1, one token at a time, deterministic for a seed.

The random numbers are drawn beforehand, one per sequence and position, so that the text does not depend on how many
sequences are sampled together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.base.errors import CheckpointError

CACHE_BYTES = 2**30
"""Bound on the keys and values of the sequences that are sampled together, bytes; one sequence is the minimum."""
LOOK_EVERY = 16
"""Tokens per sequence between two reports of progress."""


@torch.inference_mode()
def sampled_tokens(
    model: nn.Module,
    sequences: int,
    length: int,
    *,
    first: int | None,
    vocabulary: int,
    seed: tuple[int, ...],
    on_progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.int64]:
    """``sequences`` texts of ``length`` tokens by ``model``, a causal language model of transformers in eval mode.

    first: the token that every text begins with; None = a random one of each. vocabulary: ids that may be written,
    from 0 on; rows of the head beyond them pad it. seed: of all random numbers. on_progress: called with the number
    of sampled tokens. Returns int64 (sequences, length). Raises CheckpointError if the model's logits are not
    finite.
    """
    draws = np.random.default_rng(seed)
    starts = draws.integers(0, vocabulary, sequences) if first is None else np.full(sequences, first)
    draws_NT = torch.from_numpy(draws.random((sequences, length - 1)))
    together = max(1, CACHE_BYTES // _cache_bytes(model.config, length))
    parts = []
    for at in range(0, sequences, together):
        begin = torch.from_numpy(starts[at : at + together].astype(np.int64))
        rows = len(begin)

        def show(written: int, before: int = at * length, rows: int = rows) -> None:
            on_progress(before + written * rows)

        parts.append(_written(model, begin, draws_NT[at : at + together], vocabulary, show))
    return np.concatenate(parts)


def _written(
    model: Any, begin_N: Tensor, draws_NT: Tensor, vocabulary: int, show: Callable[[int], None]
) -> NDArray[np.int64]:
    ids_NT = torch.empty((len(begin_N), draws_NT.shape[1] + 1), dtype=torch.int64)
    ids_NT[:, 0] = begin_N
    cache, read = None, 0
    for place in range(1, ids_NT.shape[1]):
        out = model(input_ids=ids_NT[:, read:place], past_key_values=cache, use_cache=True)
        cache = getattr(out, "past_key_values", None)
        read = 0 if cache is None else place  # a model without a cache reads all of it again
        ids_NT[:, place] = _next(out.logits[:, -1, :vocabulary], draws_NT[:, place - 1])
        if place % LOOK_EVERY == 0:
            show(place)
    show(ids_NT.shape[1])
    return ids_NT.numpy()


def _next(logits_NK: Tensor, draws_N: Tensor) -> Tensor:
    """The token at which the probabilities, added up in order, pass the draw (0 to 1) of each row."""
    summed_NK = logits_NK.double().softmax(dim=-1).cumsum(dim=-1)
    if torch.isnan(summed_NK[:, -1]).any():
        raise CheckpointError("its logits are not numbers")
    wanted_N1 = (draws_N * summed_NK[:, -1])[:, None]
    return torch.searchsorted(summed_NK, wanted_N1, right=True)[:, 0].clamp_(max=logits_NK.shape[-1] - 1)


def _cache_bytes(config: Any, length: int) -> int:
    """Bytes of keys and values that a sequence of ``length`` tokens has at most, in float32."""
    layers = getattr(config, "num_hidden_layers", 1) or 1
    hidden = getattr(config, "hidden_size", 1) or 1
    return max(1, 8 * int(layers) * int(hidden) * length)
