"""Choose the execution mode, whole or layer by layer, and the arithmetic, once for a suite.

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
from pipeline.models.memory import (
    ModelSize,
    calibration_bytes,
    cpu_worker_bytes,
    layered_bytes,
    usable_bytes,
    whole_bytes,
)
from pipeline.spec import TokenShape, Variant

if TYPE_CHECKING:
    from pipeline.driver import Resources
    from pipeline.runs.audit_options import AuditOptions
    from pipeline.suites import Suite


@dataclass(frozen=True)
class Execution:
    """Execution mode and arithmetic of a suite."""

    arithmetic: str
    stream: bool = False
    notes: tuple[str, ...] = ()
    """Notes for the user about the choice."""
    cpu_worker_bytes: int | None = None
    """Upper bound on the host memory of a CPU worker, bytes; None = unknown."""


def choose_execution(
    options: AuditOptions, suite: Suite, variants: Sequence[Variant], shape: TokenShape, resources: Resources
) -> Execution:
    """Choose the execution of ``options`` on ``resources`` with a known device; UsageError if it is impossible."""
    asked, calibration = options.arithmetic, options.calibration_sequences * shape.seq_len
    if resources.device != "cuda":
        if asked not in ("auto", "ieee"):
            raise UsageError(f"--arithmetic {asked}: the cpu computes in ieee only")
        bound = _cpu_worker_bytes(suite, variants, shape, calibration)
        return Execution("ieee", options.stream, cpu_worker_bytes=bound)
    has_triton = importlib.util.find_spec("triton") is not None
    arithmetic = asked if asked != "auto" else "split" if has_triton else "ieee"
    if options.stream:
        return Execution(arithmetic, stream=True)
    size, usable = _sizes(suite, resources)
    if size is None:
        return Execution(arithmetic)
    calibrating = calibration_bytes(size, variants, calibration)
    swapped = size.stored_bytes if options.swap else 0
    whole = calibrating + swapped + whole_bytes(size, variants, shape, arithmetic)
    if whole <= usable:
        return Execution(arithmetic)
    note = (
        f"as a whole the models of {suite.name} take up to {_gib(whole)} GiB of a GPU, of which {_gib(usable)} GiB "
        "are usable: they are measured layer by layer, in up to "
        f"{_gib(calibrating + layered_bytes(size, variants, shape, arithmetic))} GiB"
    )
    return Execution(arithmetic, stream=True, notes=(note,))


def _cpu_worker_bytes(
    suite: Suite, variants: Sequence[Variant], shape: TokenShape, calibration: int
) -> int | None:
    from pipeline.suites.model_config import model_config, stored_bytes

    stored = stored_bytes(suite)
    if stored is None:
        return None
    return cpu_worker_bytes(model_config(suite), stored, variants, shape, calibration)


def _sizes(suite: Suite, resources: Resources) -> tuple[ModelSize | None, int]:
    """Size of the suite's models and usable bytes; None if either is unknown."""
    from pipeline.driver import gpu_memory
    from pipeline.suites.model_config import model_config, stored_bytes

    stored, memory = stored_bytes(suite), gpu_memory(resources)
    if stored is None or memory is None:
        return None, 0
    return ModelSize.of(model_config(suite), stored), usable_bytes(memory, resources.workers_per_gpu)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g}"
