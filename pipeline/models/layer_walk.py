"""Advance hidden states through a model one decoder layer at a time, with the model's own forward.

The layers are replaced by stops. A first forward of every chunk records what the model hands to each layer (hidden
states, masks, position embeddings) and ends before the last; then each layer advances the hidden states of all
chunks; a last forward of every chunk receives the final hidden states from the last stop, and the model itself adds
its norm, its head and any change of its logits. Nothing here knows an architecture by name. A model that does
anything between its layers, or does not call them once each in their order, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.base.errors import CheckpointError


@dataclass
class _Returned:
    """How the layers of a model return their hidden states."""

    wrapped: bool = False
    """Whether they are in a tuple."""


@dataclass(frozen=True)
class LayerCall:
    """Arguments of a layer beside the hidden states."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    returned: _Returned
    """Form of the return value, learned from a call."""

    def __call__(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The hidden states after ``layer``."""
        out = layer(hidden, *self.arguments, **self.keywords)
        self.returned.wrapped = isinstance(out, tuple | list)
        advanced: Tensor = out[0] if self.returned.wrapped else out
        return advanced


class _StoppedError(Exception):
    """Raised at the last stop, or at one out of order, to end the forward."""


class _Stop(nn.Module):
    """Replaces a layer and forwards its attributes."""

    def __init__(self, layer: nn.Module, reached: Callable[..., Any]) -> None:
        super().__init__()
        # Not a child module, because its weights are not this module's.
        object.__setattr__(self, "_layer", layer)
        self._reached = reached

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(object.__getattribute__(self, "_layer"), name)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self._reached(*arguments, **keywords)


class Walk:
    """The layer loop of a model, outside its forward."""

    def __init__(self, model: nn.Module, layers: nn.ModuleList) -> None:
        self._model, self._layers = model, layers
        self._returned = _Returned()

    def begin(self, ids: Tensor) -> tuple[Tensor, list[LayerCall]]:
        """The hidden states before the first layer for ``ids`` (B, T), and the call of every layer.

        Raises CheckpointError for a model that cannot be run layer by layer.
        """
        recorded = self._record(ids)
        if recorded is None:
            self._returned.wrapped = not self._returned.wrapped
            recorded = self._record(ids)
        if recorded is None:
            raise CheckpointError(
                f"{type(self._model).__name__} cannot be walked layer by layer: its forward does not hand the output "
                "of each decoder layer to the next; it has to fit as a whole (run without --stream)"
            )
        return recorded

    def finish(self, hidden: Tensor, forward: Callable[[nn.Module], Any]) -> Any:
        """Run ``forward(model)`` with ``hidden`` as the output of the last layer."""

        def passed_on(*arguments: Any, **keywords: Any) -> Any:
            return self._wrap(self._hidden(arguments, keywords)[0])

        with self._stops([passed_on] * (len(self._layers) - 1) + [lambda *_, **__: self._wrap(hidden)]):
            return forward(self._model)

    def _record(self, ids: Tensor) -> tuple[Tensor, list[LayerCall]] | None:
        seen: list[Tensor] = []
        calls: list[LayerCall] = []

        def stop(index: int) -> Callable[..., Any]:
            def reached(*arguments: Any, **keywords: Any) -> Any:
                hidden, call = self._hidden(arguments, keywords)
                if index != len(calls) or (seen and hidden is not seen[-1]):
                    raise _StoppedError
                seen.append(hidden)
                calls.append(call)
                if len(calls) == len(self._layers):
                    raise _StoppedError
                return self._wrap(hidden)

            return reached

        with self._stops([stop(index) for index in range(len(self._layers))]):
            try:
                self._model(input_ids=ids, use_cache=False, return_dict=True)
            except _StoppedError:
                pass
            except (TypeError, IndexError, AttributeError, ValueError):
                return None  # a tensor where the model expects a tuple, or the reverse
        return (seen[0], calls) if len(calls) == len(self._layers) else None

    @contextmanager
    def _stops(self, reached: list[Callable[..., Any]]) -> Iterator[None]:
        originals = list(self._layers)
        for index, layer in enumerate(originals):
            self._layers[index] = _Stop(layer, reached[index])
        try:
            yield
        finally:
            for index, layer in enumerate(originals):
                self._layers[index] = layer

    def _wrap(self, hidden: Tensor) -> Any:
        return (hidden,) if self._returned.wrapped else hidden

    def _hidden(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Tensor, LayerCall]:
        if arguments:
            return arguments[0], LayerCall(arguments[1:], keywords, self._returned)
        rest = {name: value for name, value in keywords.items() if name != "hidden_states"}
        return keywords["hidden_states"], LayerCall((), rest, self._returned)


def walkable(model: nn.Module, layers: nn.ModuleList, ids: Tensor) -> bool:
    """Whether ``model`` can be run layer by layer, tried with ``ids`` (B, T)."""
    try:
        Walk(model, layers).begin(ids)
    except CheckpointError:
        return False
    return True
