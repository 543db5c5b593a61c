"""Averages of the weights along a run (EMA, LAWA), and the float32 model that a checkpoint of them loads as."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Averages:
    """The exponential moving average over updates, and the uniform mean of the weights at the last probes.

    Both are kept in float32 and updated as ``old + share * (new - old)``, so that the average of unchanged weights
    equals them, bit for bit.
    """

    def __init__(self, model: nn.Module, *, decay: float, window: int) -> None:
        self._live = list(model.parameters())
        self._share = 1 - decay
        self._ema = _clones(self._live)
        self._kept: deque[list[Tensor]] = deque(maxlen=window)

    @torch.no_grad()
    def after_update(self) -> None:
        """Add the weights to the moving average."""
        torch._foreach_lerp_(self._ema, [each.detach() for each in self._live], self._share)

    def at_probe(self) -> None:
        """Add the weights to the uniform mean."""
        self._kept.append(_clones(self._live))

    def ema(self) -> list[Tensor]:
        return self._ema

    @torch.no_grad()
    def lawa(self) -> list[Tensor]:
        mean = _clones(self._kept[0])
        for number, weights in enumerate(list(self._kept)[1:], start=2):
            torch._foreach_lerp_(mean, weights, 1 / number)
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {"ema": self._ema, "kept": list(self._kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ema = list(state["ema"])
        self._kept.clear()
        self._kept.extend(state["kept"])


@torch.no_grad()
def checkpoint_model(model: nn.Module, weights: Sequence[Tensor] | None, stored: torch.dtype) -> nn.Module:
    """A copy of ``model`` in eval mode, rounded as a checkpoint in the dtype ``stored`` would be.

    ``weights``: in the order of ``model.parameters()``; None = the model's own. Rounding to the suite's own dtype
    makes a probe of a run comparable with the audit of its suite: at the fork both give the same numbers.
    """
    fresh = copy.deepcopy(model).eval()
    fresh.requires_grad_(False)
    for parameter, weight in zip(fresh.parameters(), weights or model.parameters(), strict=True):
        parameter.copy_(weight.to(stored))
    return fresh


def _clones(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]
