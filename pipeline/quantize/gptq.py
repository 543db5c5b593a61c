"""GPTQ: codes are chosen one input column after the other, and what is left undone moves the columns that follow.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022,
arXiv 2210.17323), as the authors' code computes it. H is the mean of x x^T over the calibration inputs, to whose
diagonal ``damping`` times its mean is added, and U the upper triangular matrix with H^-1 = U^T U. For column i, in
order: its code is the nearest one, e = (w_i - w'_i) / U_ii, and every later column j loses e U_ij. Blocks of columns do
it at once for what lies beyond them, which changes nothing but the speed.

One factorization is enough for U: where H = R R^T with an upper triangular R, which is the Cholesky factor of H with
rows and columns in reverse, U = R^-1. The authors' three steps (factor, invert, factor) give the same matrix.

* The grid is that of ``quantize.integer``: what has been moved is rounded to float32 before a group's scale and zero
  point are chosen. Everything else is float64, so that devices differ in hardly any code.
* ``groups=dynamic`` (default): a group's scale and zero point are chosen when the first of its columns is reached, from
  all of its columns as they have been moved by then. ``static``: before the first column, from the weights themselves.
* ``order=activation``: columns with the largest diagonal of H first (ties as stored), else as stored. Groups are
  always of columns that are neighbours as stored, so that the format stays what GRID says: the authors' code, and
  GPTQModel with ``desc_act``, regroup columns in the new order and have to store it. With ``static`` this is
  llm-compressor's default.
* A column that is zero for every token (dead) gets the weight zero, as in the authors' code. The mean of the diagonal
  is over the others; theirs counts a dead column as 1, whatever the scale of the inputs.
* Where H has no factor, damping is raised step by step up to 1. Where even that fails, or no token was seen, the matrix
  is rounded to nearest. Either is recorded (``CalibrationOutcome``).

Nothing guarantees that the error of the output, tr((W' - W) H (W' - W)^T), is smaller than that of rounding to nearest.
At 3 bits and more it was, on every matrix that was tried. At 2 bits dynamic scales follow the weights that large errors
have moved, and it may be larger. Both are recorded for every matrix, and one on which it is larger is marked.

Legend of shapes: O = out_features, I = in_features, G = groups of a row, B = columns of a block.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline.base.errors import UsageError
from pipeline.quantize.blocks import require_float32_matrix
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.lookup import register
from pipeline.quantize.output_error import output_error
from pipeline.quantize.quantizer import (
    Calibration,
    CalibrationOutcome,
    CalibrationProblem,
    Encoded,
    Method,
    Need,
    Quantizer,
)
from pipeline.quantize.whole_groups import require_whole_groups

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128
"""Most columns that are quantized before those beyond are moved."""
CHOICES = {"order": ("natural", "activation"), "groups": ("dynamic", "static")}
RAISED = (1e-3, 1e-2, 1e-1, 1.0)
"""Larger dampings that are tried, in order, if the requested one is not enough."""

QuantizeColumns = Callable[
    ["Tensor", "Tensor", "Tensor", "Tensor", tuple[int, int]], tuple["Tensor", "Tensor"]
]
"""A function like :func:`quantize_columns`."""


@register
@dataclass(frozen=True)
class Gptq(Method):
    """Codes by GPTQ on an integer grid."""

    name: ClassVar[str] = "gptq"
    grammar: ClassVar[str] = "@gptq[:damping=0.01][:order=activation][:groups=static] (on int{b}-...)"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SECOND_MOMENTS})

    damping: float = 0.01
    """Added to the diagonal of the second moments, relative to its mean."""
    order: str = "natural"
    groups: str = "dynamic"

    @classmethod
    def make(cls, grid: Quantizer, parameters: Mapping[str, str]) -> Self:
        """Make the method on ``grid``; raises UsageError for another kind of grid and for impossible values."""
        if not isinstance(grid, IntegerGrid):
            raise UsageError(
                f"{grid}@gptq: GPTQ moves weights on an integer grid; wanted int{{2..8}}-g{{G}}-{{asym|sym}} or "
                "int{2..8}-channel-{asym|sym}"
            )
        return super().make(grid, parameters)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.damping) and 0 <= self.damping <= 1):
            raise UsageError(f"gptq:damping={self.damping}: wanted a number from 0 to 1")
        for name, choices in CHOICES.items():
            if (given := getattr(self, name)) not in choices:
                raise UsageError(f"gptq:{name}={given}: wanted {' or '.join(choices)}")

    def require_model(self, config: Mapping[str, Any]) -> None:
        """Raise UsageError if a group would be cut short."""
        require_whole_groups(self, self._grid.group_size, config)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The codes, with ``scale`` and ``zero_point`` (float32 (O, G)), and the outcome."""
        assert calibration is not None
        return self.encode_by(quantize_columns, {"": weight}, calibration)[""]

    def encode_together(
        self, weights: Mapping[str, Tensor], calibration: Calibration, config: Mapping[str, Any]
    ) -> dict[str, Encoded]:
        """Each as :meth:`encode` does, with one factorization for all."""
        del config
        return self.encode_by(quantize_columns, weights, calibration)

    def encode_by(
        self, columns: QuantizeColumns, weights: Mapping[str, Tensor], calibration: Calibration
    ) -> dict[str, Encoded]:
        """:meth:`encode_together`, the columns of a block by ``columns``."""
        import torch

        moments = calibration.second_moments
        assert moments is not None
        dead = moments.diagonal() == 0
        outcome = CalibrationOutcome(calibration.n_rows, dead_columns=int(dead.sum()))
        order = self._order(moments)
        problem, factor, damping = self._factor(moments, dead, order, outcome)
        outcome = dataclasses.replace(outcome, problem=problem, damping=damping, rounded=factor is None)
        stacked = torch.cat(list(weights.values()))  # rows do not depend on each other
        require_float32_matrix(stacked)
        if factor is None:
            encoded = self.grid.encode(stacked)
        else:
            matrix = _Columns(self._grid, stacked, dead, order, self.groups == "static")
            encoded = matrix.encode(factor, columns)
        parts = _split(encoded, [len(weight) for weight in weights.values()])
        return {
            name: self._measured(part, weight, moments, outcome)
            for (name, weight), part in zip(weights.items(), parts, strict=True)
        }

    def _order(self, moments: Tensor) -> Tensor:
        """int64 (I): the columns as they are reached."""
        import torch

        if self.order == "activation":
            return moments.diagonal().argsort(descending=True, stable=True)
        return torch.arange(len(moments), device=moments.device)

    def _factor(
        self, moments: Tensor, dead: Tensor, order: Tensor, outcome: CalibrationOutcome
    ) -> tuple[CalibrationProblem | None, Tensor | None, float | None]:
        """What went wrong, U (float64 (I, I), None where there is none) and the damping that it took."""
        columns = len(moments)
        if outcome.n_rows == 0:
            return CalibrationProblem.NO_TOKENS, None, None
        if outcome.dead_columns == columns:
            return CalibrationProblem.NO_INPUTS, None, None
        problem = CalibrationProblem.FEW_TOKENS if outcome.n_rows < columns else None
        mean = moments.diagonal().sum() / (columns - outcome.dead_columns)
        for damping in (self.damping, *(more for more in RAISED if more > self.damping)):
            damped = moments[order][:, order]
            damped.diagonal().add_(mean * damping).masked_fill_(dead[order], mean)
            factor = inverse_factor(damped)
            if factor is not None:
                return problem, factor, damping
            problem = CalibrationProblem.NOT_POSITIVE_DEFINITE
        return problem, None, None

    def _measured(
        self, encoded: Encoded, weight: Tensor, moments: Tensor, outcome: CalibrationOutcome
    ) -> Encoded:
        """``encoded`` with ``outcome`` and the errors of the output."""
        nearest = output_error(weight, self.grid.decode(self.grid.encode(weight)), moments)
        error = output_error(weight, self.decode(encoded), moments)
        problem = outcome.problem
        if problem is None and error > nearest:
            problem = CalibrationProblem.WORSE_THAN_NEAREST
        found = dataclasses.replace(
            outcome, problem=problem, output_error=error, output_error_nearest=nearest
        )
        return dataclasses.replace(encoded, outcome=found)

    @property
    def _grid(self) -> IntegerGrid:
        assert isinstance(self.grid, IntegerGrid)
        return self.grid


class _Columns:
    """The columns of one matrix, in the order in which they are reached."""

    def __init__(self, grid: IntegerGrid, weight: Tensor, dead: Tensor, order: Tensor, static: bool) -> None:
        import torch

        rows, columns = weight.shape
        size = min(grid.group_size or columns, columns)
        self._grid, self._order = grid, order
        self._group = order // size
        self._weight_IO = weight.double().masked_fill(dead, 0.0).T[order].contiguous()
        self._codes_IO = weight.new_empty(columns, rows)
        groups = -(-columns // size)
        self._scale_GO, self._zero_GO = weight.new_empty(2, groups, rows)
        reached: list[list[int]] = [[] for _ in range(groups)]
        for position, each in enumerate(self._group.tolist()):
            reached[each].append(position)
        self._reached = [torch.tensor(positions, device=weight.device) for positions in reached]
        """By group, when its columns are reached."""
        self._starts = {positions[0]: each for each, positions in enumerate(reached)}
        """Which group's first column is where."""
        if static:
            for each in range(groups):
                self._choose(each)
            self._starts.clear()

    def encode(self, factor: Tensor, quantize: QuantizeColumns) -> Encoded:
        """Quantizes them all. ``factor``: U, float64 (I, I), in the same order."""
        count, weight_IO = len(self._order), self._weight_IO
        cuts = sorted({*range(0, count, BLOCK), *self._starts, count})
        for start, stop in itertools.pairwise(cuts):
            if start in self._starts:
                self._choose(self._starts[start])
            group = self._group[start:stop]
            codes_BO, errors_BO = quantize(
                weight_IO[start:stop], factor[start:stop, start:stop],
                self._scale_GO[group], self._zero_GO[group], self._grid.code_range,
            )  # fmt: skip
            self._codes_IO[start:stop] = codes_BO
            weight_IO[stop:].addmm_(factor[start:stop, stop:].T, errors_BO, alpha=-1)
        codes_IO = self._codes_IO.new_empty(self._codes_IO.shape)
        codes_IO[self._order] = self._codes_IO
        return Encoded(
            codes_IO.T.contiguous(),
            {"scale": self._scale_GO.T.contiguous(), "zero_point": self._zero_GO.T.contiguous()},
        )

    def _choose(self, group: int) -> None:
        """The scale and zero point of ``group`` from its columns as they are now."""
        values_OS = self._weight_IO[self._reached[group]].T.float().contiguous()
        scale_O1, zero_O1 = self._grid.choose(values_OS)
        self._scale_GO[group], self._zero_GO[group] = scale_O1[:, 0], zero_O1[:, 0]


def _split(encoded: Encoded, rows: list[int]) -> list[Encoded]:
    """One of each number of ``rows``."""
    split = {name: value.split(rows) for name, value in encoded.parameters.items()}
    return [
        Encoded(codes, {name: values[index] for name, values in split.items()})
        for index, codes in enumerate(encoded.codes.split(rows))
    ]


def inverse_factor(matrix: Tensor) -> Tensor | None:
    """The upper triangular U with U^T U = M^-1 of a positive definite M, float64 (I, I); None where M is not."""
    import torch

    lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    factor: Tensor = torch.linalg.solve_triangular(
        lower.flip(0, 1), torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), upper=True
    )
    return factor.contiguous() if bool((failed == 0) & factor.diagonal().isfinite().all()) else None


def quantize_columns(
    weight_BO: Tensor, factor_BB: Tensor, scale_BO: Tensor, zero_BO: Tensor, code_range: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The columns of one block in turn: codes (float32) and e (float64), both (B, O).

    ``weight_BO``: float64, the columns as they have been moved; scratch. ``factor_BB``: U within the block.
    ``scale_BO``, ``zero_BO``: float32, of each column's group.
    """
    low, high = code_range
    codes_BO, errors_BO = scale_BO.new_empty(scale_BO.shape), weight_BO.new_empty(weight_BO.shape)
    divisor_BO = scale_BO.where(scale_BO > 0, math.inf).double()
    for column, (weight_O, scale_O, zero_O) in enumerate(zip(weight_BO, scale_BO, zero_BO, strict=True)):
        steps_O = (weight_O / divisor_BO[column]).round_().add_(zero_O).clamp_(low, high)
        codes_BO[column] = steps_O
        value_O = codes_BO[column].sub(zero_O).mul_(scale_O)  # float32, as it is decoded
        errors_BO[column] = weight_O.sub(value_O).div_(factor_BB[column, column])
        weight_BO[column + 1 :].addr_(factor_BB[column, column + 1 :], errors_BO[column], alpha=-1)
    return codes_BO, errors_BO
