"""State that a monitor keeps between observations: tokens on the device, the model's structure, compiled kernels.

An observation reads the parameters in place and packs one layer's variants at a time, then frees them. The first
one also builds the structure and, on a GPU, compiles. A model on another device, with another structure or with
other module settings starts again.

On a GPU products are split on tensor cores if it has them (``probe.arithmetic``): float32 accuracy, several times
faster than float32 units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.arithmetic import choose_arithmetic
from pipeline.probe.engine import Engine
from pipeline.probe.memory_weights import ModelWeights
from pipeline.probe.prober import choose_backend
from pipeline.spec import ProbeSpec, TokenShape, Variant


class LiveProbe:
    """Measures one training run's model repeatedly on the same tokens."""

    def __init__(self, tokens: np.ndarray, tokens_sha256: str) -> None:
        """``tokens``: int64 (batches, batch_size, seq_len)."""
        self._tokens, self._sha256 = tokens, tokens_sha256
        self._engines: dict[tuple[str, tuple[Variant, ...], torch.device], Engine] = {}

    def losses(
        self,
        model: nn.Module,
        variants: Sequence[Variant],
        *,
        weights: str,
        instead: Mapping[str, Tensor] | None = None,
    ) -> dict[Variant, float]:
        """Mean loss of ``model`` in nats per token under each of ``variants``, fp32 first; all NaN if a weight is
        not finite.

        ``weights``: their name, under which structures are kept. ``instead``: a state dict with values in place of
        the model's. Raises UsageError for a state dict of another model, CheckpointError for a model that cannot be
        measured.
        """
        current = ModelWeights(model, instead=instead)
        if not current.are_finite:
            return dict.fromkeys(variants, math.nan)
        engine = self._engine(weights, tuple(variants), next(model.parameters()).device)
        nll_VNP = engine.run(current).values["nll_nats"]
        return {variant: float(nll.mean()) for variant, nll in zip(variants, nll_VNP, strict=True)}

    def _engine(self, weights: str, variants: tuple[Variant, ...], device: torch.device) -> Engine:
        key = (weights, variants, device)
        if key not in self._engines:
            shape, arithmetic = TokenShape(*self._tokens.shape), choose_arithmetic(str(device))
            spec = ProbeSpec(variants, shape, self._sha256, arithmetic=arithmetic)
            sequences = self._tokens.reshape(-1, shape.seq_len)
            self._engines[key] = Engine(
                spec, sequences, device, choose_backend(spec, device), losses_only=True
            )
        return self._engines[key]
