"""The weights of controls: float32 W + P, the same on every device (``pipeline.quantize.controls`` says which).

Legend: O = out_features, I = in_features, G = groups per row, S = group size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.quantize.controls import Control
from pipeline.quantize.draws import Draws
from pipeline.quantize.quantizer import Calibration, Encoded, Quantizer, decoded

if TYPE_CHECKING:
    from torch import Tensor


class RoundingErrors:
    """Errors Q(W) - W of the quantizers of one weight, each computed once."""

    def __init__(
        self,
        weight: Tensor,
        quantizers: Sequence[Quantizer | None] = (),
        calibrated: Mapping[int, Encoded] | None = None,
        calibration: Calibration | None = None,
        draws: Draws | None = None,
    ) -> None:
        """``weight``: float32 (O, I). ``calibrated``: by place among ``quantizers``, what those that need a layer's
        inputs have made of it; ``calibration``: those inputs, where nothing has been made of them yet. ``draws``:
        where random numbers are kept; None: nowhere.
        """
        self.draws = draws or Draws()
        self.weight, self._calibration = weight, calibration
        self._encoded = {quantizers[place]: encoded for place, encoded in (calibrated or {}).items()}
        self._errors: dict[Quantizer, Tensor] = {}

    def of(self, quantizer: Quantizer) -> Tensor:
        """float32 (O, I): Q(W) - W."""
        if quantizer not in self._errors:
            encoded = self._encoded.get(quantizer)
            encoded = quantizer.encode(self.weight, self._calibration) if encoded is None else encoded
            self._errors[quantizer] = decoded(quantizer, encoded, self.weight) - self.weight
        return self._errors[quantizer]


def perturbed(errors: RoundingErrors, control: Control, quantizer: Quantizer | None, matrix: str) -> Tensor:
    """float32 (O, I): the weight under ``control``; arguments as in :func:`perturbation`."""
    return errors.weight + perturbation(errors, control, quantizer, matrix)


def perturbation(
    errors: RoundingErrors, control: Control, quantizer: Quantizer | None, matrix: str
) -> Tensor:
    """float32 (O, I): what ``control`` adds to the weight.

    ``quantizer``: whose error it uses; None for noise of a relative size. ``matrix``: dotted module path, on which the
    random draw depends.
    """
    import torch

    weight, draws, place = errors.weight, errors.draws, (control.seed, control.kind, matrix)
    if control.kind == "relative":
        size = weight.double().square().mean().sqrt().mul(control.amount).float()
        return draws.normals(*place, weight) * size
    assert quantizer is not None, f"{control}: a perturbation by no quantizer's error"
    error = errors.of(quantizer)
    if control.kind == "line":
        return error * control.amount
    if control.kind == "signs":
        return torch.where(draws.coins(*place, error), error, -error)
    width = min(quantizer.group_width(error.shape[1]), error.shape[1])
    whole = error.shape[1] // width * width
    if control.kind == "permuted":
        parts = [error[:, :whole].reshape(-1, width), error[:, whole:]]
        uses = ["permuted", "permuted rest"]
        shuffled = [
            part.gather(1, draws.permutations(control.seed, use, matrix, part)).reshape(error.shape[0], -1)
            for part, use in zip(parts, uses, strict=True)
            if part.numel()
        ]
        return torch.cat(shuffled, dim=1) if len(shuffled) > 1 else shuffled[0]
    noise = draws.normals(*place, error).clone()
    for part, drawn in ((error[:, :whole], noise[:, :whole]), (error[:, whole:], noise[:, whole:])):
        if part.numel():
            grouped_OGS = part.unflatten(1, (-1, width)) if part.shape[1] >= width else part[:, None]
            size_OG1 = grouped_OGS.double().square().mean(dim=2, keepdim=True).sqrt().float()
            drawn.view(grouped_OGS.shape).mul_(size_OG1)
    return noise
