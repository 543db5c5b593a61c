"""Any architecture through transformers' own modules around :class:`ProbeLinear`.

Where the whole model is filled, its own forward is called, chunk by chunk. Where only one layer is at a time, that
forward is taken apart (``probe/walk.py``): the same modules are called with the same tensors, in another order, so the
logits are equal bit for bit; what it costs is the hidden states of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from pipeline.probe.walk import LayerCall
from pipeline.probe.walk import Walk as ModelWalk


class Forward:
    """One pass of ``tokens`` (int64 (sequences, T), on the device) through a filled skeleton, as ``neox.Walk``."""

    def __init__(self, model: Any, variants: int, tokens: Tensor) -> None:
        self.model, self.variants, self.tokens = model, variants, tokens
        self._parts: tuple[Tensor, ...] = ()

    def begin(self, chunk: int) -> None:
        """Cuts the tokens into parts of ``chunk`` sequences."""
        self._parts = self.tokens.split(chunk)

    def advance(self, layer: nn.Module) -> None:
        """Nothing: :meth:`logits` calls the model, which goes through its layers by itself."""

    def logits(self) -> Iterator[tuple[Tensor, None]]:
        """Logits float32 (V, rows, vocabulary), part by part; there is no scale to apply."""
        for part in self._parts:
            yield self._called(part, self.model), None

    def _folded(self, part: Tensor) -> Tensor:
        return part.repeat(self.variants, 1)

    def _called(self, part: Tensor, model: Any) -> Tensor:
        logits = model(input_ids=self._folded(part), use_cache=False, return_dict=True).logits
        reshaped: Tensor = logits.reshape(self.variants, part.numel(), -1)
        return reshaped


class LayeredForward(Forward):
    """The same where each of ``layers`` holds its weights only while it is advanced by."""

    def __init__(self, model: Any, variants: int, tokens: Tensor, layers: nn.ModuleList) -> None:
        super().__init__(model, variants, tokens)
        self._walk = ModelWalk(model, layers)
        self._states: list[Tensor] = []
        self._calls: list[list[LayerCall]] = []
        self._index = 0

    def begin(self, chunk: int) -> None:
        """Hidden states before the first layer, ``chunk`` sequences at a time."""
        super().begin(chunk)
        begun = [self._walk.begin(self._folded(part)) for part in self._parts]
        self._states, self._calls = [hidden for hidden, _ in begun], [calls for _, calls in begun]
        self._index = 0

    def advance(self, layer: nn.Module) -> None:
        """Takes all tokens through ``layer``, the next one."""
        for chunk, calls in enumerate(self._calls):
            self._states[chunk] = calls[self._index](layer, self._states[chunk])
        self._index += 1

    def logits(self) -> Iterator[tuple[Tensor, None]]:
        """Logits float32 (V, rows, vocabulary), part by part; there is no scale to apply."""
        for part in self._parts:
            yield self._walk.finish(self._states.pop(0), partial(self._called, part)), None
