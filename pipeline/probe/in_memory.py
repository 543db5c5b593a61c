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
    variants: Sequence[str] = DEFAULT_VARIANTS,
    *,
    mechanism: Sequence[str] = (),
) -> Measurement:
    """Measure a causal language model of transformers under fp32 and ``variants``; the model stays unchanged.

    tokens: int64 (batches, batch_size, seq_len), all of the model's vocabulary. In float32, on the model's device.
    mechanism: variants whose controls are evaluated too, ``all``, and ``layers`` for each layer alone; the losses are
    in ``controls`` of the result.
    Raises UsageError for tokens of another shape and CheckpointError for a model that cannot be measured.
    """
    if tokens.ndim != 3 or tokens.dtype != np.int64:
        raise UsageError(
            f"tokens of {tokens.dtype} {tokens.shape}: wanted int64 (batches, batch_size, seq_len)"
        )
    from pipeline.base.fingerprints import tokens_sha256

    parsed = parse_variants(tuple(variants))
    chosen, by_layer = parse_mechanism(mechanism, parsed)
    spec = ProbeSpec(
        parsed, TokenShape(*tokens.shape), tokens_sha256(tokens), mechanism=chosen, by_layer=by_layer
    )
    device = next(model.parameters()).device
    return Prober(spec, tokens, str(device)).measure_model(model)
