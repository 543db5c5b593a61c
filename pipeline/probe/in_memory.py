"""A model in memory measured, for Python's users."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.errors import UsageError
from pipeline.probe.measure import Measurement, Prober
from pipeline.spec import DEFAULT_VARIANTS, ProbeSpec, TokenShape, parse_variants


def measure(
    model: torch.nn.Module, tokens: np.ndarray, variants: Sequence[str] = DEFAULT_VARIANTS
) -> Measurement:
    """The losses of a causal language model of transformers under fp32 and ``variants``; the model stays as it is.

    tokens: int64 (batches, batch_size, seq_len), all of the model's vocabulary. On the CPU, on a float32 copy. Raises
    UsageError for tokens of another shape and CheckpointError for a model that cannot be measured.
    """
    if tokens.ndim != 3 or tokens.dtype != np.int64:
        raise UsageError(
            f"tokens of {tokens.dtype} {tokens.shape}: wanted int64 (batches, batch_size, seq_len)"
        )
    from pipeline.corpus import tokens_sha256

    spec = ProbeSpec(parse_variants(tuple(variants)), TokenShape(*tokens.shape), tokens_sha256(tokens))
    with torch.no_grad():
        copied = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
        return Prober(spec, tokens).measure_model(copied)
