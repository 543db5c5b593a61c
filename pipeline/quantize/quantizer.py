"""The interface of a quantizer: a frozen value with a name, and two functions, ``encode`` and ``decode``.

``encode`` and ``decode`` are the definition on every device. A kernel in ``quantize.triton`` may compute the same
values faster; without one the decoded values are used: slower, never different.

A quantizer's file imports torch inside its functions, if at all, so that names are parsed without torch.

Legend of shapes: O = out_features, I = in_features, N = rows of inputs.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline.base.errors import CheckpointError, UsageError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor


class Need(enum.Enum):
    """Statistics of a layer's inputs that a quantizer may need."""

    INPUTS = "inputs"
    """The inputs themselves, row by row."""
    SECOND_MOMENTS = "second moments"
    """The mean of x x^T over the inputs x."""
    MAGNITUDES = "magnitudes"
    """The mean of abs(x) over the inputs x."""


@dataclass(frozen=True)
class Calibration:
    """Inputs of one linear layer for the calibration tokens, with the layers before it quantized by the same
    variant.
    """

    n_rows: int
    """Tokens that reached the layer; with 0 the fields below are empty or zero."""
    inputs: Tensor | None = None
    """float32 (N, I), if ``Need.INPUTS`` was declared."""
    second_moments: Tensor | None = None
    """float64 (I, I), the mean of x x^T, if ``Need.SECOND_MOMENTS`` was declared."""
    magnitudes: Tensor | None = None
    """float64 (I,), the mean of abs(x), where ``Need.MAGNITUDES`` was declared."""


class CalibrationProblem(enum.StrEnum):
    """Reason why a calibrated method could not fully work on a matrix."""

    NO_TOKENS = "no calibration token reaches it"
    NO_INPUTS = "all of its inputs are zero"
    FEW_TOKENS = "fewer calibration tokens than input columns"
    NOT_FINITE = "its inputs are not finite"
    NOT_POSITIVE_DEFINITE = "its second moments have no Cholesky factor"
    WORSE_THAN_NEAREST = "its output is further off than rounding to nearest leaves it"


@dataclass(frozen=True)
class CalibrationOutcome:
    """Outcome of the calibration of one matrix; stored at the tensor level of a shard (``measurements``)."""

    n_rows: int
    """Tokens that were seen."""
    dead_columns: int = 0
    """Input columns that are zero for every token."""
    damping: float | None = None
    """Number added to the diagonal of the second moments, relative to its mean; None for a method without damping."""
    problem: CalibrationProblem | None = None
    """None without a problem."""
    rounded: bool = False
    """Whether the matrix was rounded to nearest because the method cannot work on it."""
    output_error: float | None = None
    """Relative error of the layer's output on the calibration tokens (``quantize.output_error``)."""
    output_error_nearest: float | None = None
    """The same after rounding to nearest."""
    scale_exponent: float | None = None
    """The power of its inputs' mean magnitudes that its columns are scaled by; None where they are not to be scaled."""
    clip_share: float | None = None
    """Mean share to which its groups' largest magnitudes are clipped; None without clipping."""


@dataclass(frozen=True)
class Encoded:
    """One weight as a quantizer stores it."""

    codes: Tensor
    """(O, I), integers in float32 (exact up to 2^24), the dtype of the computation, so that no copy is made."""
    parameters: Mapping[str, Tensor]
    """Name -> scales, zero points and the like."""
    outcome: CalibrationOutcome | None = None
    """Outcome of a calibrated quantizer."""


class Quantizer:
    """Base of all quantizers: subclass it as a frozen dataclass and register it (``pipeline.quantize.register``)."""

    name: ClassVar[str]
    """Unique among quantizers; for a method, the METHOD of the variant grammar."""
    grammar: ClassVar[str]
    """The names it parses, for help and error texts."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """Statistics of the layer's inputs that ``encode`` needs."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The quantizer that ``text`` (GRID of the variant grammar) names; None if it names another."""
        raise NotImplementedError(f"{cls.__name__}.parse")

    def __str__(self) -> str:
        """Its name in the variant grammar, which ``parse`` reads."""
        raise NotImplementedError(f"{type(self).__name__}.__str__")

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """Encode ``weight`` (float32 (O, I), on any device), which has to stay as it is.

        ``calibration`` has what ``needs`` declares; None if that is nothing.
        """
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def encode_together(
        self, weights: Mapping[str, Tensor], calibration: Calibration, config: Mapping[str, Any]
    ) -> dict[str, Encoded]:
        """The ``weights`` (by their layers' dotted names) of all calibrated layers that receive one tensor in a model
        of ``config`` (config.json): one by one, unless a quantizer has something to choose for them together.
        """
        del config
        return {name: self.encode(weight, calibration) for name, weight in weights.items()}

    def require_model(self, config: Mapping[str, Any]) -> None:
        """Raise UsageError if it does not fit models of ``config`` (config.json); by default it fits all."""
        del config

    def decode(self, encoded: Encoded) -> Tensor:
        """Decode ``encoded`` to float32 (O, I), on the same device."""
        raise NotImplementedError(f"{type(self).__name__}.decode")

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        """``weight`` in grid steps, (O, ...) padded with zeros, for a grid with rounding boundaries at
        half-integers; None for any other.
        """
        del weight, encoded
        return None

    def group_width(self, columns: int) -> int:
        """Number of consecutive weights of a row of ``columns`` that share a scale; by default the whole row."""
        return columns


@dataclass(frozen=True)
class Method(Quantizer):
    """Base of quantizers that choose the codes of another one's grid: GRID@METHOD[:parameter=value...].

    The fields after ``grid`` are the parameters; each has a default of its type (int, float, bool or str).
    """

    grid: Quantizer
    """The grid whose codes are chosen."""

    @classmethod
    def make(cls, grid: Quantizer, parameters: Mapping[str, str]) -> Self:
        """Make the method on ``grid``. Raises UsageError for an unknown parameter or a wrong type."""
        defaults = {field.name: field.default for field in dataclasses.fields(cls) if field.name != "grid"}
        values: dict[str, Any] = {}
        for name, text in parameters.items():
            if name not in defaults:
                raise unknown_name(f"parameter of {cls.name}", name, defaults)
            values[name] = _value(f"{cls.name}:{name}", text, defaults[name])
        return cls(grid, **values)

    def __str__(self) -> str:
        """The grid, the method and every parameter that is not at its default."""
        changed = [
            f":{field.name}={_text(getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if field.name != "grid" and getattr(self, field.name) != field.default
        ]
        return f"{self.grid}@{self.name}{''.join(changed)}"

    def decode(self, encoded: Encoded) -> Tensor:
        """The values of the grid."""
        return self.grid.decode(encoded)

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        """The steps of the grid."""
        return self.grid.grid_steps(weight, encoded)

    def group_width(self, columns: int) -> int:
        """The group width of the grid."""
        return self.grid.group_width(columns)


def _value(what: str, text: str, default: object) -> Any:
    """``text`` as a value of the type of ``default``."""
    if isinstance(default, bool):
        if text in ("true", "false"):
            return text == "true"
        raise UsageError(f"{what}={text}: wanted true or false")
    try:
        return type(default)(text)  # type: ignore[call-arg]
    except ValueError:
        raise UsageError(f"{what}={text}: wanted a value of type {type(default).__name__}") from None


def _text(value: object) -> str:
    """``value`` in the form that :func:`_value` reads, without ``+``, which starts a modifier."""
    return str(value).lower() if isinstance(value, bool) else str(value).replace("e+", "e")


def round_trip(quantizer: Quantizer, weight: Tensor, calibration: Calibration | None = None) -> Tensor:
    """Quantize and decode ``weight`` (float32 (O, I)) with ``quantizer``; float32 (O, I)."""
    return decoded(quantizer, quantizer.encode(weight, calibration), weight)


def decoded(quantizer: Quantizer, encoded: Encoded, weight: Tensor) -> Tensor:
    """``quantizer.decode(encoded)``. Raises CheckpointError if shape, dtype or device differ from ``weight``."""
    values = quantizer.decode(encoded)
    if values.shape != weight.shape or values.dtype != weight.dtype or values.device != weight.device:
        kind = type(quantizer)
        raise CheckpointError(
            f"quantizer {quantizer} ({kind.__module__}.{kind.__qualname__}) decodes a weight to {values.dtype} "
            f"{tuple(values.shape)} on {values.device}: wanted {weight.dtype} {tuple(weight.shape)} on {weight.device}"
        )
    return values
