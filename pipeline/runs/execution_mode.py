"""Whole or layer by layer, and in which arithmetic: decided once for a suite, before any work.

The arithmetic changes what is measured, so it must not depend on what happens to be free in one worker at one moment:
ieee on a CPU; on a GPU split, unless another one is asked for. Whole and layer by layer give the same numbers bit for
bit. A worker goes layer by layer where a checkpoint does not fit what it finds free. All workers do with ``--stream``,
and on a GPU where the bound of ``pipeline.models.memory`` does not fit the smallest one's share of a worker: workers
that share a GPU and start together would each find it free.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.base.errors import UsageError
from pipeline.models.memory import ModelSize, cpu_worker_bytes, layered_bytes, usable_bytes, whole_bytes
from pipeline.spec import TokenShape, Variant

if TYPE_CHECKING:
    from pipeline.driver import Resources
    from pipeline.runs.audit_options import AuditOptions
    from pipeline.suites import Suite


@dataclass(frozen=True)
class Execution:
    """How the checkpoints of a suite are measured."""

    arithmetic: str
    stream: bool = False
    notes: tuple[str, ...] = ()
    """What a user should know of the choice."""
    cpu_worker_bytes: int | None = None
    """Host memory that a worker on a CPU takes at most; None = not known."""


def choose_execution(
    options: AuditOptions,
    suite: Suite,
    variants: Sequence[Variant],
    shape: TokenShape,
    resources: Resources,
) -> Execution:
    """How ``options`` are carried out on ``resources``, whose device is known; UsageError where they cannot be."""
    asked = options.arithmetic
    if resources.device != "cuda":
        if asked not in ("auto", "ieee"):
            raise UsageError(f"--arithmetic {asked}: the cpu computes in ieee only")
        return Execution("ieee", options.stream, cpu_worker_bytes=_cpu_worker_bytes(suite, variants, shape))
    has_triton = importlib.util.find_spec("triton") is not None
    arithmetic = asked if asked != "auto" else "split" if has_triton else "ieee"
    if options.stream:
        return Execution(arithmetic, stream=True)
    size, usable = _sizes(suite, resources)
    if size is None or whole_bytes(size, variants, shape, arithmetic) <= usable:
        return Execution(arithmetic)
    note = (
        f"as a whole the models of {suite.name} take up to {_gib(whole_bytes(size, variants, shape, arithmetic))} GiB "
        f"of a GPU, of which {_gib(usable)} GiB are usable: they are measured layer by layer, in up to "
        f"{_gib(layered_bytes(size, variants, shape, arithmetic))} GiB"
    )
    return Execution(arithmetic, stream=True, notes=(note,))


def _cpu_worker_bytes(suite: Suite, variants: Sequence[Variant], shape: TokenShape) -> int | None:
    from pipeline.suites.model_config import model_config, stored_bytes

    stored = stored_bytes(suite)
    return None if stored is None else cpu_worker_bytes(model_config(suite), stored, len(variants), shape)


def _sizes(suite: Suite, resources: Resources) -> tuple[ModelSize | None, int]:
    """The size of the suite's models and the bytes that are usable; None where either is not known."""
    from pipeline.driver import gpu_memory
    from pipeline.suites.model_config import model_config, stored_bytes

    stored, memory = stored_bytes(suite), gpu_memory(resources)
    if stored is None or memory is None:
        return None, 0
    return ModelSize.of(model_config(suite), stored), usable_bytes(memory, resources.workers_per_gpu)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g}"
