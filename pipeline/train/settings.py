"""Settings of the optimizer, apart from the optimizer itself, which needs torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW as Pythia uses it."""

    weight_decay: float = 0.1
    """Decoupled, on parameters of at least two dimensions only (not on biases and norms)."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    """Largest global gradient norm."""
