"""Inputs of linear layers for the calibration tokens.

Legend: R = rows (tokens), I = in_features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.probe.backend import Backend
from pipeline.quantize import Calibration, Need


class LayerInputs:
    """Inputs of the linear layers that are called with one tensor, under one variant."""

    def __init__(self, in_features: int, device: torch.device, backend: Backend) -> None:
        self._features, self._device, self._backend = in_features, device, backend
        self._n_rows = 0
        self._rows: list[Tensor] = []
        self._sums: dict[Need, Tensor] = {}
        """float64: of x x^T, (I, I), and of abs(x), (I,)."""
        self._added: set[Need] = set()
        self._is_counted = False
        """Whether the chunk's rows are in ``_n_rows``."""

    def begin(self) -> None:
        """The next rows are of another chunk."""
        self._added.clear()
        self._is_counted = False

    def add(self, rows_RI: Tensor, needs: frozenset[Need]) -> None:
        """Takes what ``needs`` names of the chunk's rows, where an earlier layer has not."""
        if not self._is_counted:
            self._n_rows += rows_RI.shape[0]
            self._is_counted = True
        for need in needs - self._added:
            self._added.add(need)
            if need is Need.INPUTS:
                self._rows.append(rows_RI.clone())
            elif need is Need.SECOND_MOMENTS:
                self._sum(need).add_(self._backend.sum_of_squares(rows_RI))
            else:
                self._sum(need).add_(rows_RI.abs().sum(dim=0, dtype=torch.float64))

    def calibration(self, needs: frozenset[Need]) -> Calibration:
        no_rows = torch.empty(0, self._features, device=self._device)
        count = max(1, self._n_rows)
        return Calibration(
            self._n_rows,
            torch.cat([no_rows, *self._rows]) if Need.INPUTS in needs else None,
            self._sum(Need.SECOND_MOMENTS) / count if Need.SECOND_MOMENTS in needs else None,
            self._sum(Need.MAGNITUDES) / count if Need.MAGNITUDES in needs else None,
        )

    def _sum(self, need: Need) -> Tensor:
        if need not in self._sums:
            shape = (self._features,) * (2 if need is Need.SECOND_MOMENTS else 1)
            self._sums[need] = torch.zeros(shape, dtype=torch.float64, device=self._device)
        return self._sums[need]
