"""The loss of a language model: negative log-likelihood of the next token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.measurements.measurement import Column, TokenBlock, TokenMeasurement, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor


def per_token(block: TokenBlock) -> dict[str, Tensor]:
    """-log p(next token)."""
    return {"nll_nats": -block.log_p_VP}


def perplexity(nll_nats: float) -> float:
    """exp(nll_nats); inf where that is too large, as it may be of a diverged checkpoint.

    Not numpy's exp: its last bit depends on the processor's vector instructions.
    """
    try:
        return math.exp(nll_nats)
    except OverflowError:
        return math.inf


def summarise(values: Mapping[str, np.ndarray], batches: int) -> Values:
    """Means accumulated in float64, over all tokens, over each batch and over each sequence."""
    nll = values["nll_nats"]
    mean = float(nll.mean())
    return {
        "nll_nats": mean,
        "perplexity": perplexity(mean),
        "n_tokens": nll.size,
        "batch_nll_nats": nll.reshape(batches, -1).mean(axis=1).tolist(),
        "sequence_nll_nats": nll.mean(axis=1).tolist(),
    }


register(
    TokenMeasurement(
        name="loss",
        columns=(
            Column("nll_nats", "nats", "Loss (nats)", axis="log", better="lower", menu=False),
            Column("perplexity", "", "Perplexity", axis="log", better="lower", menu=False),
            Column("n_tokens", "tokens", "Predicted tokens", dtype="int64", tables=False, menu=False),
            Column("batch_nll_nats", "nats", "Loss of each batch (nats)", dtype="list<float64>", menu=False),
            Column(
                "sequence_nll_nats",
                "nats",
                "Loss of each sequence (nats)",
                dtype="list<float64>",
                menu=False,
                late=True,
            ),
        ),
        per_token=per_token,
        values={"nll_nats": "float64"},
        summarise=summarise,
    )
)
