"""Any architecture through its own modules around :class:`ProbeLinear`.

If the whole model is filled, its own forward is called, chunk by chunk. If only one layer is loaded at a time, or
layers are calibrated in turn, the forward is split by layers: the same modules are called with the same tensors in
another order, so the logits are equal bit for bit, at the cost of keeping the hidden states of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.models.layer_walk import LayerCall, Walk


class Pass(Protocol):
    """One pass of tokens through a filled template."""

    tokens: Tensor
    """int64 (sequences, T), on the device."""
    takes_layers: bool
    """Whether a layer is used only in :meth:`advance`."""

    def begin(self, chunk: int) -> None:
        """Start the pass, with ``chunk`` sequences at a time."""

    def advance(self, layer: Any) -> None:
        """Advance all tokens through ``layer``, the next one."""

    def hidden(self) -> Iterator[Tensor]:
        """The residual stream of the first variant after the last advance, float32 (rows, width), part by part in
        token order.
        """

    def logits(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Logits float32 (V, rows, vocabulary), part by part in token order, and the scale (V, vocabulary) to
        multiply them by.
        """


class Forward:
    """A pass by the model's own forward."""

    takes_layers = False

    def __init__(self, model: Any, variants: int, tokens: Tensor) -> None:
        self.model, self.variants, self.tokens = model, variants, tokens
        self._parts: tuple[Tensor, ...] = ()

    def begin(self, chunk: int) -> None:
        """Split the tokens into parts of ``chunk`` sequences."""
        self._parts = self.tokens.split(chunk)

    def advance(self, layer: nn.Module) -> None:
        """Do nothing: :meth:`logits` calls the whole model."""

    def hidden(self) -> Iterator[Tensor]:
        """Never: what is between the layers is not seen."""
        raise NotImplementedError("a model's own forward shows no hidden states: take LayeredForward")

    def logits(self) -> Iterator[tuple[Tensor, None]]:
        """Logits float32 (V, rows, vocabulary), part by part; there is no scale to apply."""
        for part in self._parts:
            yield self._called(part, self.model), None

    def _folded(self, part: Tensor) -> Tensor:
        return part.repeat(self.variants, 1)

    def _called(self, part: Tensor, model: Any) -> Tensor:
        logits = logits_of(model, self._folded(part))
        return logits.reshape(self.variants, part.numel(), -1)


class LayeredForward(Forward):
    """A pass in which each of ``layers`` holds its weights only during its own advance."""

    takes_layers = True

    def __init__(self, model: Any, variants: int, tokens: Tensor, layers: nn.ModuleList) -> None:
        super().__init__(model, variants, tokens)
        self._walk = Walk(model, layers)
        self._states: list[Tensor] = []
        self._calls: list[list[LayerCall]] = []
        self._index = 0

    def begin(self, chunk: int) -> None:
        """Compute the hidden states before the first layer, ``chunk`` sequences at a time."""
        super().begin(chunk)
        begun = [self._walk.begin(self._folded(part)) for part in self._parts]
        self._states, self._calls = [hidden for hidden, _ in begun], [calls for _, calls in begun]
        self._index = 0

    def advance(self, layer: nn.Module) -> None:
        """Advance all tokens through ``layer``, the next one."""
        for chunk, calls in enumerate(self._calls):
            self._states[chunk] = calls[self._index](layer, self._states[chunk])
        self._index += 1

    def hidden(self) -> Iterator[Tensor]:
        """The residual stream of the first variant, part by part."""
        for state in self._states:
            yield state[: len(state) // self.variants].flatten(0, 1)

    def logits(self) -> Iterator[tuple[Tensor, None]]:
        """Logits float32 (V, rows, vocabulary), part by part; there is no scale to apply."""
        for part in self._parts:
            yield self._walk.finish(self._states.pop(0), partial(self._called, part)), None


def logits_apart(found: Pass, exact: Pass) -> float:
    """Largest difference between the logits of two passes, relative to the largest of ``exact``; NaN where one is."""
    one, other = (
        torch.cat([part if scale is None else part * scale[:, None] for part, scale in each.logits()], 1)
        for each in (found, exact)
    )
    return ((one - other).abs().max() / other.abs().max()).item()


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """Logits (B, T, vocabulary) for ``ids`` (B, T), from a transformers model or any module that takes ids and
    returns logits, a tuple that begins with them, or an object that holds them.
    """
    if hasattr(model, "get_output_embeddings"):
        out = model(input_ids=ids, use_cache=False, return_dict=True)
    else:
        out = model(ids)
    logits: Tensor = out.logits if hasattr(out, "logits") else out[0] if isinstance(out, tuple) else out
    return logits
