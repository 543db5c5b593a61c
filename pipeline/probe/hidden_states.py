"""The hidden level: the residual stream of the unquantized model, observed on the way of the probe's own pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pipeline.base.errors import CheckpointError
from pipeline.measurements import HiddenMeasurement, selected
from pipeline.measurements.hooks import HiddenStates
from pipeline.models.template import ModelTemplate
from pipeline.probe.forward import Pass
from pipeline.spec import ProbeSpec


class ResidualStream:
    """A pass whose hidden states of the first variant, which is fp32, are observed."""

    def __init__(self, inner: Pass, spec: ProbeSpec, template: ModelTemplate) -> None:
        self._inner, self._layers = inner, len(template.layers)
        self._measurements = selected(spec.measurements, HiddenMeasurement)
        self._states = HiddenStates(self._measurements, self._layers)
        self._next = 0
        self.tokens, self.takes_layers = inner.tokens, inner.takes_layers

    def begin(self, chunk: int) -> None:
        """Start the pass, with ``chunk`` sequences at a time."""
        try:
            self._inner.begin(chunk)
        except CheckpointError as error:
            names = ", ".join(repr(each.name) for each in self._measurements)
            raise CheckpointError(
                f"measurement {names} observes the hidden states between decoder layers, and {error}; leave it out"
            ) from error

    def advance(self, layer: Any) -> None:
        """Takes all tokens through ``layer``, the next one, and shows what it gives."""
        self._inner.advance(layer)
        for part_RD in self._inner.hidden():
            self._states.add(self._next, part_RD)
        self._next += 1

    def hidden(self) -> Iterator[Tensor]:
        """Values of the pass itself."""
        return self._inner.hidden()

    def logits(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Values of the pass itself."""
        return self._inner.logits()

    def columns(self) -> dict[str, Any]:
        """Every column of the measurements, after the last layer."""
        return self._states.columns()
