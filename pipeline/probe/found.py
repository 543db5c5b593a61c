"""What the engine hands over of one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.probe.tensor_statistics import TensorStatistics
from pipeline.quantize.control_variant import ControlVariant
from pipeline.spec import Variant


@dataclass(frozen=True)
class Numbers:
    """What the engine found in one checkpoint."""

    values: dict[str, np.ndarray]
    """(V, N, P) by name (``TokenMeasurement.values``); NaN where the model's logits are not finite."""
    statistics: dict[Variant, tuple[TensorStatistics, ...]]
    notes: list[str]
    """What happened on the way that a reader of the numbers should know (chunks halved for memory)."""
    controls: dict[ControlVariant, np.ndarray]
    """float64 (N, P): the losses of each control; NaN where its logits are not finite."""
    of_hidden: dict[str, Any]
    """Columns of the hidden level."""
