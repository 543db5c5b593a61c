"""The engine's result for one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.probe.tensor_statistics import TensorStatistics
from pipeline.quantize.control_variant import ControlVariant
from pipeline.spec import Variant


@dataclass(frozen=True)
class Numbers:
    """The numbers of one checkpoint."""

    values: dict[str, np.ndarray]
    """Name -> (V, N, P) (``TokenMeasurement.values``); NaN where the model's logits are not finite."""
    statistics: dict[Variant, tuple[TensorStatistics, ...]]
    notes: list[str]
    """Notes for readers of the numbers (chunks halved for memory)."""
    controls: dict[ControlVariant, np.ndarray]
    """float64 (N, P): the losses of each control; NaN where its logits are not finite."""
    of_hidden: dict[str, Any]
    """Columns of the hidden level."""
