"""The interface of a measurement: its columns, its level and its hook. Needs no torch until a hook runs.

Legend of shapes: V = variants (fp32 first), N = sequences, P = predictions (of a sequence, or of a block of one),
K = vocabulary, O = out_features, I = in_features, T = tokens per sequence, R = tokens, D = width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pipeline.base.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pipeline.quantize import CalibrationOutcome, Quantizer, Variant

Level = Literal["token", "tensor", "checkpoint", "hidden"]
Values = Mapping[str, Any]
"""Values by the name of their column."""
Moments = Mapping[str, Mapping[str, "Tensor"]]
"""Adam's state: parameter -> ``exp_avg``, ``exp_avg_sq`` and ``step``."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Column:
    """One number of a measurement, with its storage and display."""

    name: str
    """Name in the shard; ``<variant>_<name>`` in the trajectory table."""
    unit: str
    """Unit, such as ``nats`` or ``share``; empty if it has none."""
    label: str
    """Label in menus and headings of charts."""
    note: str = ""
    """One sentence under the chart's heading."""
    dtype: Literal["float64", "int64", "list<float64>", "string"] = "float64"
    """Type. A list has one number per batch or sequence; lists and strings are in the shard only."""
    axis: Literal["log", "linear"] = "linear"
    """Scale of the chart's axis."""
    format: str = "~g"
    """d3 format of the axis's numbers."""
    better: Literal["lower", "higher", ""] = ""
    """Direction of good; empty if there is none."""
    heading: str = ""
    """Heading in the table of checkpoints, after the variant's name; empty: not shown there."""
    written: Literal["number", "short", "share"] = "short"
    """Format in the table and the readout: 4 digits, 3 digits, or percent."""
    late: bool = False
    """Whether the core got it after shards had been written: those stay complete without it, and it may be null."""
    tables: bool = True
    """Whether it is a column of the trajectory table; a list never is."""
    menu: bool = True
    """Whether it is a choice of the report's damage chart."""
    pooled: Literal["mean", "finite mean", "weighted mean", "root sum of squares", ""] = ""
    """How the tensors of a checkpoint make one number: each counts once, each where it is finite, each by its number
    of weights, or as the norm of all makes a whole; empty: they do not."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"column {self.name!r}: wanted small letters, digits and _, a letter first")


class TokenBlock:
    """The logits of a block of predictions under all variants, with values that measurements share."""

    def __init__(self, logits_VPK: Tensor, targets_P: Tensor) -> None:
        self.logits_VPK = logits_VPK
        """float32; variant 0 is fp32."""
        self.targets_P = targets_P
        """int64: the tokens that come next."""

    @cached_property
    def log_p_VPK(self) -> Tensor:  # noqa: N802
        """Logarithms of all probabilities."""
        return self.logits_VPK.log_softmax(dim=-1)

    @cached_property
    def log_p_VP(self) -> Tensor:  # noqa: N802
        """Logarithms of the correct tokens' probabilities."""
        index = self.targets_P.expand(self.logits_VPK.shape[0], -1).unsqueeze(-1)
        return self.log_p_VPK.gather(-1, index).squeeze(-1)

    @cached_property
    def broken_VP(self) -> Tensor:  # noqa: N802
        """Where a variant's logits, or those of fp32 that it is compared with, are not finite."""
        finite = self.log_p_VP.isfinite()
        return ~(finite & finite[:1])


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight matrix under one variant."""

    name: str
    """Dotted module path."""
    weight_OI: Tensor  # noqa: N815
    """float32, padding rows left out."""
    quantized_OI: Tensor | None  # noqa: N815
    """The same on the variant's grid; None where the variant leaves this weight as it is."""
    variant: Variant
    quantizer: Quantizer | None = None
    """Quantizer that made ``quantized_OI``."""
    steps: Tensor | None = None
    """The weight in grid steps (``Quantizer.grid_steps``); None if the grid has no even steps."""


@dataclass(frozen=True)
class TokenMeasurement:
    """A measurement of predictions: every variant's logits against fp32's, token by token."""

    level: ClassVar[Level] = "token"

    name: str
    columns: tuple[Column, ...]
    per_token: Callable[[TokenBlock], Mapping[str, Tensor]]
    """(V, P) of each of ``values``, float32 on the logits' device; NaN where logits are not finite."""
    values: Mapping[str, Literal["float32", "float64"]]
    """Names of the values of ``per_token``, each with its stored dtype; unique among measurements."""
    summarise: Callable[[Mapping[str, np.ndarray], int], Values]
    """Called with ``values``, each (N, P) for one variant in token order, and the number of equal batches of N;
    returns each of ``columns``."""


@dataclass(frozen=True)
class TensorMeasurement:
    """A measurement of each quantized weight matrix."""

    level: ClassVar[Level] = "tensor"

    name: str
    columns: tuple[Column, ...]
    of_tensor: Callable[[QuantizedWeight], Values]
    """Returns each of ``columns``; None if undefined."""
    per_variant: bool = True
    """False: it depends on the stored weight only; called once, with ``quantized_OI`` None, for all variants."""


@dataclass(frozen=True)
class CheckpointMeasurement:
    """A measurement of the unquantized model as a whole."""

    level: ClassVar[Level] = "checkpoint"

    name: str
    columns: tuple[Column, ...]
    of_model: Callable[..., Values]
    """Called with the model, float32 in eval mode, which it must not change, and the evaluation tokens, int64 (N,
    T) on its device; returns each of ``columns``, which are stored in the row of fp32."""
    takes_moments: bool = False
    """Whether ``of_model`` gets a third argument: Adam's state beside the checkpoint (``Moments``), None without."""
    notes: Callable[[Values], Sequence[str]] = lambda _: ()
    """Notes for readers of these values, which the shard and the report keep."""


@dataclass(frozen=True)
class OutcomeMeasurement:
    """A measurement of the outcome of each matrix' calibration."""

    level: ClassVar[Level] = "tensor"
    per_variant: ClassVar[bool] = True

    name: str
    columns: tuple[Column, ...]
    of_outcome: Callable[[CalibrationOutcome | None], Values]
    """Returns each of ``columns``; all None for a matrix that was not calibrated."""


class HiddenObserver(Protocol):
    """Collector of a measurement of the hidden states of one checkpoint."""

    def add(self, layer: int, hidden_RD: Tensor) -> None:
        """Takes the residual stream after decoder layer ``layer``, counted from 0, float32 (R, D), for the next R
        tokens; layers come in their order, and each layer's tokens in theirs. It must be left as it is.
        """

    def values(self) -> Values:
        """Each of the measurement's columns, after the last layer."""


@dataclass(frozen=True)
class HiddenMeasurement:
    """A measurement of the residual stream of the unquantized model, on the way of the probe's own pass."""

    level: ClassVar[Level] = "hidden"

    name: str
    columns: tuple[Column, ...]
    observe: Callable[[int], HiddenObserver]
    """A new observer for a model of so many decoder layers. The columns stand in the row of fp32."""


AnyMeasurement = (
    TokenMeasurement | TensorMeasurement | CheckpointMeasurement | OutcomeMeasurement | HiddenMeasurement
)
