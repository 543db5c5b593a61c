"""Critical sharpness: how long Adam's next update may be before it no longer lowers the loss.

With u the direction of the update, the critical rate is the smallest eta > 0 with L(w - eta u) > L(w), and the critical
sharpness is 2 / eta (arXiv 2601.16979). On a parabola that is u'Hu / g'u: the curvature that training meets, from one
gradient and some 25 forward passes. L is the loss of the first sequences of the evaluation text, in float32. u is
what Adam would do next if it trained on them: its moments beside the checkpoint, and their gradient, clipped as in
training. Without this gradient a step along the last update raises the loss at once wherever training oscillates.
Weight decay and the correction of young moments, which is 1 after some hundred updates, are left out. The search
doubles a rate until the loss rises and then halves the bracket; a rise that comes back down within one doubling is
not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import CheckpointError
from pipeline.measurements.flatness import AT_ONCE, SEQUENCES, differentiable, gradient_of, part_loss
from pipeline.measurements.measurement import CheckpointMeasurement, Column, Moments, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor

FIRST, LAST, TOLERANCE = 1e-6, 1e3, 0.01
"""First and last rate of the search, and the relative width at which it ends."""
BETA1, BETA2, EPS, CLIP_NORM = 0.9, 0.95, 1e-8, 1.0
"""Adam's settings in Pythia and in every recipe of ours."""


def of_model(model: Any, tokens_NT: Tensor, moments: Moments | None) -> Values:
    """NaN without moments, and where no step along the update lowers the loss or none raises it."""
    import torch

    if moments is None:
        return {"critical_rate": math.nan, "critical_sharpness": math.nan, "critical_state": "none"}
    names, weights = zip(*model.named_parameters(), strict=True)
    few_NT = tokens_NT[:SEQUENCES]
    parts = few_NT.split(AT_ONCE)
    with torch.enable_grad(), differentiable(weights):
        start, gradient = gradient_of(model, parts, weights)
        update = _update(names, gradient, moments)
        kept = [weight.detach().clone() for weight in weights]

        @torch.no_grad()
        def rise_at(rate: float) -> float:
            for weight, before, along in zip(weights, kept, update, strict=True):
                weight.copy_(torch.sub(before, along, alpha=rate))
            return sum(float(part_loss(model, part, few_NT)) for part in parts) - start

        rate = critical_rate(rise_at)
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


def _update(names: Sequence[str], gradient: Sequence[Tensor], moments: Moments) -> list[Tensor]:
    """Direction of Adam's next update of every parameter."""
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient))
    clip = min(1.0, CLIP_NORM / norm) if norm else 1.0
    found = []
    for name, g in zip(names, gradient, strict=True):
        state = moments.get(name)
        if state is None or state["exp_avg"].shape != g.shape:
            raise CheckpointError(
                f"measurement 'critical_sharpness': Adam's state beside the checkpoint does not fit its weights: "
                f"{name} is missing or misshapen"
            )
        mean, square = (state[key].to(g.device, g.dtype) for key in ("exp_avg", "exp_avg_sq"))
        clipped = g * clip
        mean = BETA1 * mean + (1 - BETA1) * clipped
        square = BETA2 * square + (1 - BETA2) * clipped.square()
        found.append(mean / square.sqrt().add_(EPS))
    return found


register(CheckpointMeasurement(
    name="critical_sharpness",
    columns=(
        Column(
            "critical_rate", "", "Critical rate",
            "Length of Adam's next update that no longer lowers the loss.", format=",.3~g", axis="log",
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
