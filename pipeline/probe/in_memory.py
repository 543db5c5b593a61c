"""Measure a model in memory, for the Python API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.base.errors import UsageError
from pipeline.probe.prober import Prober
from pipeline.probe.result import Measurement
from pipeline.quantize.mechanism_option import parse_mechanism
from pipeline.spec import DEFAULT_VARIANTS, ProbeSpec, TokenShape, parse_variants


def measure(
    model: torch.nn.Module,
    tokens: np.ndarray,
    variants: str | Sequence[str] = DEFAULT_VARIANTS,
    *,
    mechanism: str | Sequence[str] = (),
) -> Measurement:
    """Measure a causal language model of transformers under fp32 and ``variants``; the model stays unchanged.

    tokens: int64 (batches, batch_size, seq_len), all of the model's vocabulary. In float32, on the model's device.
    mechanism: variants whose controls are evaluated too, ``all``, and ``layers`` for each layer alone; the losses are
    in ``controls`` of the result.
    Raises UsageError for tokens of another shape and CheckpointError for a model that cannot be measured.
    """
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 3 or tokens.dtype != np.int64:
        given = f"{type(tokens).__name__} of {getattr(tokens, 'dtype', '?')} {getattr(tokens, 'shape', '?')}"
        raise UsageError(f"tokens: {given}; wanted a numpy array, int64 (batches, batch_size, seq_len)")
    if tokens.size and tokens.min() < 0:
        raise UsageError(f"token {tokens.min()}: wanted 0 or more; padding and ignored labels are not text")
    from pipeline.base.fingerprints import tokens_sha256

    parsed = parse_variants((variants,) if isinstance(variants, str) else tuple(variants))
    named = (mechanism,) if isinstance(mechanism, str) else mechanism
    chosen, by_layer = parse_mechanism(named, parsed)
    spec = ProbeSpec(
        parsed, TokenShape(*tokens.shape), tokens_sha256(tokens), mechanism=chosen, by_layer=by_layer
    )
    device = next(model.parameters()).device
    return Prober(spec, tokens, str(device)).measure_model(model)
