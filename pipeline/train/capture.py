"""A training step as one CUDA graph, so that a small model does not wait for Python.

A step is hundreds of short kernels. Launched one by one they take longer to launch than to run; a graph replays the
recorded sequence at once. Whatever changes from step to step must stay at one address: the tokens are copied into
one buffer, and the learning rate is a tensor that the optimizer reads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before recording, kernel by kernel: memory is allocated, kernels are compiled, Adam's state is made."""


class CapturedStep:
    """``step(tokens) -> loss`` on a GPU, recorded after ``WARM_UP`` calls and then replayed.

    Every call is one real step, also during the warm-up; recording runs nothing. ``step`` must not read anything
    back from the device, and its parameters and optimizer state must keep their addresses: call :meth:`forget`
    after they are replaced.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], clear_gradients: Callable[[], None]) -> None:
        self._step, self._clear_gradients = step, clear_gradients
        self._stream = torch.cuda.Stream()
        self.forget()

    def forget(self) -> None:
        """Discard the recording; record again after another warm-up."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._made = 0

    def __call__(self, tokens: Tensor) -> Tensor:
        """``tokens``: of one shape and dtype in all calls."""
        if self._graph is None and self._made < WARM_UP:
            self._made += 1
            return self._beside(tokens)
        if self._graph is None:
            self._graph = self._record(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._loss.clone()

    def _beside(self, tokens: Tensor) -> Tensor:
        """Run a step on the stream that recording uses, so that libraries allocate their memory for it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._step(tokens)
        current.wait_stream(self._stream)
        return loss

    def _record(self, tokens: Tensor) -> torch.cuda.CUDAGraph:
        self._tokens = tokens.clone()
        self._clear_gradients()
        graph = torch.cuda.CUDAGraph()
        # Other threads of a worker may read the next checkpoint meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._loss = self._step(self._tokens)
        return graph
