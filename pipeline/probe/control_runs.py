"""The controls that a probe evaluates, and notes on their losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.base.errors import CheckpointError
from pipeline.models.memory import control_groups
from pipeline.models.template import ModelTemplate
from pipeline.probe.weights import Weights
from pipeline.quantize import Variant
from pipeline.quantize.control_variant import ControlVariant
from pipeline.quantize.swapped_error import SwappedVariant
from pipeline.spec import ProbeSpec

SHOWN = 3
"""How many controls a note names."""


def controls_of(spec: ProbeSpec, template: ModelTemplate) -> list[ControlVariant]:
    """Every control that ``spec`` requests for models like that of ``template``."""
    wanted = (Variant(), *spec.mechanism) if spec.mechanism else ()
    found = [ControlVariant.made(variant, each) for variant in wanted for each in spec.controls.of(variant)]
    names = [linear.name for linear in template.linears.values() if not linear.is_head]
    for layer, path in enumerate(template.layer_paths if spec.by_layer else ()):
        inside = [name for name in names if name.startswith(path)]
        for variant in spec.mechanism:
            if any(variant.quantizer_of(name) for name in inside):
                controls = spec.controls.of_layer(layer)
                found += [ControlVariant.made(variant, each, path) for each in controls]
    return found


def swap_groups(spec: ProbeSpec, template: ModelTemplate, beside: Weights) -> tuple[tuple[Variant, ...], ...]:
    """The variants that ``spec`` swaps, in groups, under the errors of the weights ``beside``, which ``template`` holds
    for a moment. Raises CheckpointError if they are of another model.
    """
    if beside.signature != template.signature:
        raise CheckpointError(
            "--swap: the two checkpoints are of different models, so their errors do not fit"
        )
    beside.fill(template)
    others = {linear.name: linear.stored_weight() for linear in template.linears.values()}
    template.release()
    return tuple(control_groups([SwappedVariant.with_errors(each, others) for each in spec.swapped]))


def uncalibrated(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The ``variants`` that need no inputs of a layer; fp32 if there is none."""
    found = [each for each in variants if not (each.base if isinstance(each, ControlVariant) else each).needs]
    return tuple(found) or (Variant(),)


def broken_notes(losses: Mapping[ControlVariant, np.ndarray]) -> list[str]:
    """Notes on controls with NaN among their ``losses``."""
    broken = [str(each) for each, nll_NP in losses.items() if np.isnan(nll_NP).any()]
    if not broken:
        return []
    shown = ", ".join([*broken[:SHOWN], *(["..."] if len(broken) > SHOWN else [])])
    return [f"the loss under {len(broken)} of {len(losses)} controls is not finite: {shown}"]
