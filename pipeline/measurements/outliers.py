"""Outliers of the residual stream: how far its largest values stand out, layer by layer.

Over all tokens and dimensions after a decoder layer: the largest magnitude over the root mean square, and the excess
kurtosis. Outlier dimensions of trained transformers: Dettmers et al. 2022 (arXiv 2208.07339), Bondarenko et al. 2023
(arXiv 2306.12929). They break formats that round activations; whether they go with the damage of rounding weights is
what the columns are for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.measurements.measurement import Column, HiddenMeasurement, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4096
"""Tokens whose powers are summed at a time: float64 copies of them are made."""


class _Powers:
    """Sums of the first four powers and the largest magnitude, by layer, on the device."""

    def __init__(self, layers: int) -> None:
        self._sums: list[Tensor | None] = [None] * layers
        self._largest: list[Tensor | None] = [None] * layers

    def add(self, layer: int, hidden_RD: Tensor) -> None:
        import torch

        for rows_RD in hidden_RD.split(ROWS):
            x = rows_RD.double()
            square = x * x
            count = torch.tensor(float(x.numel()), dtype=torch.float64, device=x.device)
            sums = torch.stack([count, x.sum(), square.sum(), (square * x).sum(), (square * square).sum()])
            largest, before, top = x.abs().amax(), self._sums[layer], self._largest[layer]
            self._sums[layer] = sums if before is None else before + sums
            self._largest[layer] = largest if top is None else torch.maximum(top, largest)

    def values(self) -> Values:
        import torch

        known = [
            (s, t) for s, t in zip(self._sums, self._largest, strict=True) if s is not None and t is not None
        ]
        sums = torch.stack([each for each, _ in known]).cpu().numpy()
        largest = torch.stack([each for _, each in known]).cpu().numpy()
        moments = (sums[:, 1:] / sums[:, :1]).T
        ratios = largest / moments[1] ** 0.5
        mean = moments[0]
        variance = moments[1] - mean**2
        fourth = moments[3] - 4 * mean * moments[2] + 6 * mean**2 * moments[1] - 3 * mean**4
        kurtosis = fourth / variance**2 - 3
        return {
            "residual_max_over_rms": ratios.max(),
            "residual_kurtosis": kurtosis.max(),
            "residual_max_over_rms_by_layer": ratios.tolist(),
            "residual_kurtosis_by_layer": kurtosis.tolist(),
        }


register(HiddenMeasurement(
    name="outliers",
    columns=(
        Column(
            "residual_max_over_rms", "", "Outliers of the residual stream",
            "Largest magnitude over the root mean square, in the layer where that is highest.", format=",.4~g",
            heading="Outliers",
        ),
        Column(
            "residual_kurtosis", "", "Excess kurtosis of the residual stream",
            "In the layer where it is highest; 0 = normal distribution.", format=",.4~g",
        ),
        Column("residual_max_over_rms_by_layer", "", "Outliers by layer", dtype="list<float64>", menu=False),
        Column("residual_kurtosis_by_layer", "", "Excess kurtosis by layer", dtype="list<float64>", menu=False),
    ),
    observe=_Powers,
))  # fmt: skip
