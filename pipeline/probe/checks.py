"""Refuse models that read later tokens or draw random numbers.

Nothing here knows an architecture by name. One sequence is run four times: unchanged, with another last token, with
another first token, and unchanged again. Predictions before the last token must not change with it (a masked
language model, an encoder or a prefix model reads later tokens, and its "perplexity" would mean nothing), and the
first run must equal the last (a model that draws random numbers, such as one with hashing attention, gives other
numbers every time).

If no token reads another, as with output projections of zeros before the first step, the check proves nothing: the
first token must change later predictions, else the next checkpoint is checked again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import CheckpointError
from pipeline.models.loading import PROVENANCE
from pipeline.models.out_of_memory import is_shortage

NOISE = 1e-5
"""Largest change of a logit, relative to the largest logit, that counts as rounding. Causal models of transformers
change by 0 on a CPU, others by 1e-2 and more."""
_ROWS = 256
"""Predictions compared at a time, which bounds the memory beside the logits."""


class ForwardCheck:
    """Whether the models of some configurations may be measured on the tokens of one prober."""

    def __init__(self, sequences: np.ndarray) -> None:
        """``sequences``: int64 (N, T), the evaluation tokens."""
        given = torch.from_numpy(sequences[0])
        other = int(given[-1]) + (1 if given[-1] == 0 else -1)
        last, first = given.clone(), given.clone()
        last[-1], first[0] = other, int(given[0]) + (1 if given[0] == 0 else -1)
        self.sequences = torch.stack([given, last, first, given])
        """int64 (4, T): the rows to run, alone or together, the last one in a separate forward (a mixture: of all)."""
        self._decided: set[str] = set()

    def needed(self, config: Any) -> bool:
        """Whether models of ``config`` still have to be checked."""
        return _key(config) not in self._decided

    def judge(self, model: torch.nn.Module, config: Any, logits: Iterable[Tensor]) -> None:
        """Raise CheckpointError if ``model``, of ``config``, must not be measured.

        ``logits``: float (T, vocabulary) for each row of ``sequences`` in order, with baseline weights.
        """
        rows = iter(logits)
        given = next(rows)
        by_last = _change(given[:-1], next(rows)[:-1])
        by_first = _change(given[1:], next(rows)[1:])
        by_chance = _change(given, next(rows))
        noise = NOISE * given.abs().amax().item()
        if not math.isfinite(noise + by_last + by_first + by_chance):
            return  # a diverged checkpoint proves nothing
        name = type(model).__name__
        if by_chance > noise:
            raise CheckpointError(
                f"{name} draws random numbers when it is evaluated: one sequence had other logits the second time (by "
                f"{by_chance:.1e}), so no number of it could be measured again"
            )
        if by_last > noise:
            raise CheckpointError(
                f"{name} reads later tokens: another last token changed the predictions before it (logits by "
                f"{by_last:.1e}); wanted a causal language model, not a masked one, an encoder or a prefix model"
            )
        if by_first > noise:
            self._decided.add(_key(config))


@contextmanager
def forward_of(model: torch.nn.Module) -> Iterator[None]:
    """Context manager around calls of ``model`` as transformers built it: a failure becomes CheckpointError."""
    try:
        yield
    except (
        AttributeError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if is_shortage(error):
            raise
        told = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"{type(model).__name__} cannot be called with tokens alone, or its config.json does not fit together: "
            f"{type(error).__name__}: {told}"
        ) from error


def _change(left: Tensor, right: Tensor) -> float:
    """Largest absolute difference of two (rows, vocabulary); NaN if either holds NaN."""
    parts = [(a - b).abs().amax() for a, b in zip(left.split(_ROWS), right.split(_ROWS), strict=True)]
    return torch.stack(parts).amax().item()


def _key(config: Any) -> str:
    """Key that is equal for configurations of the same model, wherever they were saved."""
    settings = {name: value for name, value in config.to_dict().items() if name not in PROVENANCE}
    return json.dumps(settings, sort_keys=True, default=str)
