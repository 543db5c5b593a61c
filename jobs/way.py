"""Whole or layer by layer, and in which arithmetic: decided once for a suite, before any work.

Both change what is measured on a GPU, so they must not depend on what happens to be free in one worker at one moment:

* ``--stream``: layer by layer, in ieee.
* On a CPU: ieee. A checkpoint that does not fit its worker's memory is walked layer by layer, which gives the same
  numbers bit for bit, so that is left to the worker.
* On a GPU: as a whole, in split unless another arithmetic is asked for, if the bound of ``pipeline.sizing`` fits the
  smallest GPU's share of a worker; else layer by layer, in ieee. An arithmetic that needs the whole is then refused.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.sizing import ModelSize, usable_bytes, whole_bytes
from pipeline.spec import TokenShape, Variant

if TYPE_CHECKING:
    from jobs.request import AuditOptions
    from pipeline.driver import Resources
    from pipeline.suites import Suite


@dataclass(frozen=True)
class Way:
    """How the checkpoints of a suite are measured."""

    arithmetic: str
    stream: bool = False
    notes: tuple[str, ...] = ()
    """What a user should know of the choice."""


def choose_way(
    options: AuditOptions,
    suite: Suite,
    variants: Sequence[Variant],
    shape: TokenShape,
    resources: Resources,
) -> Way:
    """The way for ``options`` on ``resources``, whose device is known; UsageError where there is none."""
    asked = options.arithmetic
    if options.stream:
        if asked not in ("auto", "ieee"):
            raise UsageError(f"--stream --arithmetic {asked}: layer by layer is computed in ieee only")
        return Way("ieee", stream=True)
    if resources.device != "cuda":
        if asked not in ("auto", "ieee"):
            raise UsageError(f"--arithmetic {asked}: the cpu computes in ieee only")
        return Way("ieee")
    has_triton = importlib.util.find_spec("triton") is not None
    arithmetic = asked if asked != "auto" else "split" if has_triton else "ieee"
    needed, usable = _sizes(suite, variants, shape, arithmetic, resources)
    if needed <= usable:
        return Way(arithmetic)
    size = (
        f"as a whole the models of {suite.name} take up to {_gib(needed)} GiB of a GPU, of which {_gib(usable)} GiB "
        "are usable"
    )
    if asked not in ("auto", "ieee"):
        raise UsageError(f"--arithmetic {asked}: {size}, and layer by layer is computed in ieee only")
    return Way("ieee", stream=True, notes=(f"{size}: they are measured layer by layer, in arithmetic ieee",))


def _sizes(
    suite: Suite, variants: Sequence[Variant], shape: TokenShape, arithmetic: str, resources: Resources
) -> tuple[int, int]:
    """Bytes that a whole model takes and bytes that are usable; (0, 0) where either is not known."""
    from pipeline.driver import gpu_memory
    from pipeline.suites.model_config import model_config, stored_bytes

    stored, memory = stored_bytes(suite), gpu_memory(resources)
    size = None if stored is None else ModelSize.of(model_config(suite), stored)
    if size is None or memory is None:
        return 0, 0
    needed = whole_bytes(size, variants, shape, arithmetic)
    return needed, usable_bytes(memory, resources.workers_per_gpu)


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g}"
