"""Critical sharpness: how long a step along Adam's update may be before it no longer lowers the loss.

With u the direction of the update, m / (sqrt(v) + eps) of the moments that are kept beside a checkpoint, the critical
rate is the smallest eta > 0 with L(w - eta u) > L(w), and the critical sharpness is 2 / eta (arXiv 2601.16979). On a
parabola that is u'Hu / g'u: the curvature that training meets, from forward passes alone. Loss of the first sequences
of the evaluation text, in float32. Weight decay and the correction of young moments, which is 1 after some hundred
updates, are left out. The search doubles a rate until the loss rises and halves the bracket; a rise that comes back
down within one doubling is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import CheckpointError
from pipeline.measurements.flatness import AT_ONCE, SEQUENCES, part_loss
from pipeline.measurements.measurement import CheckpointMeasurement, Column, Moments, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor

FIRST, LAST, TOLERANCE = 1e-6, 1e3, 0.01
"""First and last rate of the search, and the relative width at which it ends."""
EPS = 1e-8


def of_model(model: Any, tokens_NT: Tensor, moments: Moments | None) -> Values:
    """NaN without moments, and where no step along the update lowers the loss or none raises it."""
    import torch

    if moments is None:
        return {"critical_rate": math.nan, "critical_sharpness": math.nan, "critical_state": "none"}
    weights = dict(model.named_parameters())
    update = {name: _direction(name, weight, moments) for name, weight in weights.items()}
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    parts = tokens_NT[:SEQUENCES].split(AT_ONCE)

    def loss_at(rate: float) -> float:
        for name, weight in weights.items():
            weight.copy_(torch.sub(kept[name], update[name], alpha=rate))
        return sum(float(part_loss(model, part, tokens_NT[:SEQUENCES])) for part in parts)

    with torch.no_grad():
        try:
            start = loss_at(0.0)
            rate = critical_rate(lambda rate: loss_at(rate) - start)
        finally:
            for name, weight in weights.items():
                weight.copy_(kept[name])
    return {"critical_rate": rate, "critical_sharpness": 2 / rate, "critical_state": "kept"}


def critical_rate(rise_at: Callable[[float], float]) -> float:
    """The smallest rate found at which ``rise_at(rate)`` is above 0 or not finite; NaN where ``FIRST`` is such a rate,
    or none is up to ``LAST``.
    """
    falls, rises = 0.0, FIRST
    while rise_at(rises) <= 0:
        falls, rises = rises, 2 * rises
        if falls > LAST:
            return math.nan
    if not falls:
        return math.nan
    while rises > falls * (1 + TOLERANCE):
        middle = math.sqrt(falls * rises)
        if rise_at(middle) <= 0:
            falls = middle
        else:
            rises = middle
    return math.sqrt(falls * rises)


def notes(values: Values) -> list[str]:
    """A note where nothing could be measured."""
    if values["critical_state"] == "none":
        return ["critical_sharpness: not measured, because Adam's state is not kept beside this checkpoint"]
    if math.isnan(values["critical_rate"]):
        return [
            f"critical_sharpness: NaN, because a step of {FIRST:g} along the update raises the loss, or none does"
        ]
    return []


def _direction(name: str, weight: Tensor, moments: Moments) -> Tensor:
    state = moments.get(name)
    if state is None or state["exp_avg"].shape != weight.shape:
        raise CheckpointError(
            f"measurement 'critical_sharpness': Adam's state beside the checkpoint does not fit its weights: {name} is "
            "missing or misshapen"
        )
    mean, square = (state[key].to(weight.device, weight.dtype) for key in ("exp_avg", "exp_avg_sq"))
    return mean / square.sqrt().add_(EPS)


register(CheckpointMeasurement(
    name="critical_sharpness",
    columns=(
        Column(
            "critical_rate", "", "Critical rate",
            "Length of a step along Adam's update that no longer lowers the loss.", format=",.3~g", axis="log",
        ),
        Column(
            "critical_sharpness", "", "Critical sharpness", "2 over the critical rate.", format=",.3~g", axis="log",
        ),
        Column("critical_state", "", "Adam's state", dtype="string", menu=False),
    ),
    of_model=of_model,
    takes_moments=True,
    notes=notes,
))  # fmt: skip
