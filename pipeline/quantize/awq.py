"""AWQ: columns of a weight scaled by the size of their inputs before they are rounded, then the range clipped.

Source: Lin et al., "AWQ: Activation-aware Weight Quantization" (2023), arXiv 2306.00978, and the paper's code for the
searches. With Q = round to nearest on the grid, x the inputs of the linear layers that read one tensor:

1. *Scale.* For r = 0, 0.05 .. 0.95: s = max(mean|x|^r, 1e-4), divided by sqrt(max s * min s). The r is taken whose
   error, the mean of |(Q(W s) / s - W) x|^2 summed over the layers, is least; r = 0 is s = 1.
2. *Clip.* Per group of W s, limits m = 1, 0.95 .. 0.55 times its largest magnitude: the one is taken under which
   Q(clamp(W s, -m, m)) has the least mean of ((Q - W s) (x / s))^2, the sum within being over the group's columns.
   Not for layers that make queries or keys. On an asymmetric grid a group that is clipped on both sides has its zero
   point at a tie, (2^b - 1) / 2, which float32 takes to either side by the last bit of m; the upper limit is therefore
   m (1 - 2^-12), so that it goes the way of half to even.

The float model stays the same because x is divided by s in the operation before (``awq_channels``); s is 1 where that
cannot be, and such a layer is rounded and clipped. Here W is replaced by Q(W s) / s, which does the same to every x.

Both errors are quadratic forms in the second moments H of x, tr(E H E^T), so no forward pass is needed. Other than the
paper's code, which measures the outputs of the attention or of the feed-forward block, the error is that of the linear
layers' own outputs (as it does itself for layers that read a tensor alone); all calibration tokens count in the clip
search; and x is what layers receive whose predecessors are quantized.

Two guards keep every matrix's error at most that of rounding to nearest: an r under which any layer's error is larger
than with s = 1 is not taken, nor are limits, chosen group by group, under which the whole matrix's error is larger than
without.

Legend of shapes: O = out_features, I = in_features, G = groups per row, S = group size, R = some of the rows,
C = candidates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline.base.errors import UsageError
from pipeline.quantize.awq_channels import may_clip, may_scale, require_known
from pipeline.quantize.blocks import require_float32_matrix, row_blocks
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

EXPONENTS = tuple(step / 20 for step in range(20))
LIMITS = tuple(1 - step / 20 for step in range(10))
LEAST_SCALE = 1e-4
UPPER = 1 - 2**-12
"""Upper limit as a multiple of the lower one's magnitude, on an asymmetric grid."""
CPU_ELEMENTS, GPU_ELEMENTS = 2**18, 2**25
"""Values that are quantized at a time: what stays in a CPU's caches, and what fills a GPU."""


@register
@dataclass(frozen=True)
class ActivationAware(Method):
    """Codes of an integer grid for scaled columns."""

    name: ClassVar[str] = "awq"
    grammar: ClassVar[str] = "@awq[:clip=false][:activations=false] (on int{b}-...)"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.SECOND_MOMENTS, Need.MAGNITUDES})

    clip: bool = True
    """Whether limits are searched for."""
    activations: bool = True
    """Whether tensors are scaled that only a division after an activation function can be put in: formats that
    have no such division cannot hold the model."""

    @classmethod
    def make(cls, grid: Quantizer, parameters: Mapping[str, str]) -> Self:
        """The method on ``grid``; ``UsageError`` for one whose scales are not chosen from the weights as they are."""
        if not isinstance(grid, IntegerGrid):
            raise UsageError(f"{grid}@awq: AWQ rounds to an integer grid; wanted int{{2..8}}-...")
        return super().make(grid, parameters)

    def require_model(self, config: Mapping[str, Any]) -> None:
        """``UsageError`` for architectures whose scales are not known to keep the float function, and where a group
        would be cut short.
        """
        require_known(config, self)
        assert isinstance(self.grid, IntegerGrid)
        require_whole_groups(self, self.grid.group_size, config)

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        """The codes, with ``scale``, ``zero_point`` (float32 (O, G)) and ``input_scale`` (float32 (I,)), of a weight
        whose input may be scaled and that may be clipped.
        """
        assert calibration is not None
        return self._encode([weight], calibration, scaled=True, clipped=[True])[0]

    def encode_together(
        self, weights: Mapping[str, Tensor], calibration: Calibration, config: Mapping[str, Any]
    ) -> dict[str, Encoded]:
        """The same for all layers that receive one tensor, with one ``input_scale``."""
        scaled = all(may_scale(name, config, activations=self.activations) for name in weights)
        found = self._encode(
            list(weights.values()), calibration, scaled, [may_clip(name) for name in weights]
        )
        return dict(zip(weights, found, strict=True))

    def decode(self, encoded: Encoded) -> Tensor:
        """The weights (q - zero_point) * scale / input_scale."""
        return self.grid.decode(encoded) / encoded.parameters["input_scale"]

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        """The scaled weight in the grid's steps."""
        return self.grid.grid_steps(weight * encoded.parameters["input_scale"], encoded)

    def _encode(
        self, weights: list[Tensor], calibration: Calibration, scaled: bool, clipped: list[bool]
    ) -> list[Encoded]:
        for weight in weights:
            require_float32_matrix(weight)
        weights = [weight.contiguous() for weight in weights]
        assert calibration.second_moments is not None
        assert calibration.magnitudes is not None
        moments_II, magnitudes_I = calibration.second_moments.float(), calibration.magnitudes
        n_rows, dead = calibration.n_rows, int((magnitudes_I == 0).sum())
        scale_I = weights[0].new_ones(weights[0].shape[1])
        problem = None if n_rows else CalibrationProblem.NO_TOKENS
        if n_rows and not bool(moments_II.isfinite().all()):
            problem = CalibrationProblem.NOT_FINITE
        if problem is not None:
            outcome = CalibrationOutcome(n_rows, dead, problem=problem, rounded=True)
            return [dataclasses.replace(self._with_scale(each, scale_I), outcome=outcome) for each in weights]
        exponent = None
        if scaled:
            scales_CI = candidate_scales(magnitudes_I)
            errors = [self.errors(weight, scales_CI, moments_II).tolist() for weight in weights]
            chosen = least(errors)
            scale_I, exponent = scales_CI[chosen], EXPONENTS[chosen]
        found = []
        for weight, clip in zip(weights, clipped, strict=True):
            encoded, share = self._on_grid(weight, scale_I, moments_II, clipped=self.clip and clip)
            outcome = CalibrationOutcome(
                n_rows,
                dead,
                output_error=output_error(weight, self.decode(encoded), calibration.second_moments),
                output_error_nearest=output_error(weight, self._rounded(weight), calibration.second_moments),
                scale_exponent=exponent,
                clip_share=share,
            )
            found.append(dataclasses.replace(encoded, outcome=outcome))
        return found

    def errors(self, weight: Tensor, scales_CI: Tensor, moments_II: Tensor) -> Tensor:
        """float64 (C,): the mean squared error of all outputs together under each scale."""
        import torch

        count, columns = scales_CI.shape
        total_C = torch.zeros(count, dtype=torch.float64, device=weight.device)
        scales_C1I = scales_CI.unsqueeze(1)
        for weight_RI in weight.split(_rows(weight, count)):
            scaled_CRI = weight_RI * scales_C1I
            values_CRI = self._rounded(scaled_CRI.view(-1, columns)).view_as(scaled_CRI)
            total_C += _quadratic(values_CRI.div_(scales_C1I).sub_(weight_RI), moments_II)
        return total_C

    def limits(self, scaled_OI: Tensor, moments_II: Tensor) -> Tensor:
        """float32 (O, G): what share of its largest magnitude each group of the scaled weight is best clipped to, for
        inputs of the second moments ``moments_II``.
        """
        import torch

        size = self.grid.group_width(scaled_OI.shape[1])
        moments_GSS = _diagonal_blocks(moments_II, size)
        shares_C = scaled_OI.new_tensor(LIMITS)
        found = []
        for part_RI in scaled_OI.split(_rows(scaled_OI, len(LIMITS))):
            part_RGS = row_blocks(part_RI, size)
            clamped_CRGS = self._clamped(part_RGS, shares_C.view(-1, 1, 1))
            values_CRGS = self._rounded(clamped_CRGS.view(-1, part_RGS[0].numel())).view_as(clamped_CRGS)
            error_GXS = values_CRGS.sub_(part_RGS).flatten(0, 1).transpose(0, 1)
            errors_GX = (torch.bmm(error_GXS, moments_GSS) * error_GXS).sum(dim=-1)
            errors_CRG = errors_GX.T.reshape(clamped_CRGS.shape[:3])
            found.append(shares_C[errors_CRG.min(dim=0).indices])  # the first of equal ones
        return torch.cat(found)

    def _clamped(self, weight_RGS: Tensor, shares: Tensor) -> Tensor:
        """``weight_RGS`` with each group clipped to ``shares`` ((R, G) or (C, 1, 1)) of its largest magnitude."""
        limit = (shares * weight_RGS.abs().amax(dim=-1)).unsqueeze(-1)
        upper = (
            limit
            if self._grid.symmetric
            else limit * shares.new_tensor(UPPER).where(shares < 1, 1.0).unsqueeze(-1)
        )
        return weight_RGS.clamp(-limit, upper)

    def _on_grid(
        self, weight: Tensor, scale_I: Tensor, moments_II: Tensor, *, clipped: bool
    ) -> tuple[Encoded, float | None]:
        """``weight`` scaled and, with ``clipped``, clipped where that makes its error smaller; the mean share that is
        left of the groups' largest magnitudes.
        """
        scaled_OI = weight * scale_I
        encoded = self._with_scale(scaled_OI, scale_I)
        if not clipped:
            return encoded, None
        shares_OG = self.limits(scaled_OI, moments_II / (scale_I * scale_I.unsqueeze(-1)))
        clamped_OGS = self._clamped(
            row_blocks(scaled_OI, self.grid.group_width(scaled_OI.shape[1])), shares_OG
        )
        clamped_OI = clamped_OGS.flatten(1)[:, : scaled_OI.shape[1]].contiguous()
        narrower = self._with_scale(clamped_OI, scale_I)
        wide, narrow = (
            float(_quadratic((self.decode(each) - weight).unsqueeze(0), moments_II))
            for each in (encoded, narrower)
        )
        return (narrower, float(shares_OG.mean())) if narrow <= wide else (encoded, 1.0)

    def _with_scale(self, scaled_OI: Tensor, scale_I: Tensor) -> Encoded:
        encoded = self.grid.encode(scaled_OI)
        return Encoded(encoded.codes, {**encoded.parameters, "input_scale": scale_I})

    def _rounded(self, weight: Tensor) -> Tensor:
        return self.grid.decode(self.grid.encode(weight))

    @property
    def _grid(self) -> IntegerGrid:
        assert isinstance(self.grid, IntegerGrid)
        return self.grid


def candidate_scales(magnitudes_I: Tensor) -> Tensor:
    """float32 (C, I): the scale of every exponent, from the mean of abs(x) per column (float64)."""
    exponents_C = magnitudes_I.new_tensor(EXPONENTS)
    scales_CI = magnitudes_I.pow(exponents_C.unsqueeze(-1)).clamp(min=LEAST_SCALE)
    low_C1, high_C1 = scales_CI.aminmax(dim=1, keepdim=True)
    return (scales_CI / (high_C1 * low_C1).sqrt()).float()


def least(errors: list[list[float]]) -> int:
    """The candidate of least error summed over the matrices, by matrix and candidate; of those under which none has a
    larger error than under the first candidate.
    """
    allowed = [index for index in range(len(errors[0])) if all(error[index] <= error[0] for error in errors)]
    return min(allowed, key=lambda index: math.fsum(error[index] for error in errors))


def _quadratic(error_CRI: Tensor, moments_II: Tensor) -> Tensor:
    """float64 (C,): tr(E H E^T)."""
    import torch

    product = error_CRI.flatten(0, 1) @ moments_II
    return (product.view_as(error_CRI) * error_CRI).sum(dim=-1).sum(dim=-1, dtype=torch.float64)


def _diagonal_blocks(moments_II: Tensor, size: int) -> Tensor:
    """(G, S, S): the blocks of ``moments_II`` on its diagonal, the last one filled up with zeros."""
    import torch

    parts = [moments_II[at : at + size, at : at + size] for at in range(0, len(moments_II), size)]
    return torch.stack([torch.nn.functional.pad(part, (0, size - len(part)) * 2) for part in parts])


def _rows(weight: Tensor, candidates: int) -> int:
    elements = GPU_ELEMENTS if weight.is_cuda else CPU_ELEMENTS
    return max(1, elements // (candidates * weight.shape[1]))
