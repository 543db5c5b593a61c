"""The options of ``benchmark`` as one value, and the checkpoints that ``--random`` measures instead of a suite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.console import errors
from jobs.options import audit_options, picked, shares_gpu
from pipeline.base.errors import UsageError
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.output import absolute_out
from pipeline.spec import TokenShape

DEFAULT_SUITE = "tiny"


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is timed, and how (``benchmark --help``)."""

    audit: AuditOptions
    """Those that an audit has too; its ``out`` is not used."""
    folder: Path | None
    """Where the numbers and the chart go."""
    shape: str | None
    files: int
    scaling: bool
    tokens_per_step: int
    updates: int
    compile: bool | None
    runs: int | None
    probe_every: int | None
    pythons: tuple[str, ...]
    share_gpu: bool
    """Whether the size of the model decides how many runs share a GPU."""


def benchmark_options(options: dict[str, Any]) -> BenchmarkOptions:
    """The options as click read them; UsageError for a suite beside ``--random``."""
    suite, shape, out = options["suite"], options["shape"], options["out"]
    if shape is not None and suite is not None:
        raise UsageError(f"--random {shape} replaces the suite {suite}: give one of them")
    return BenchmarkOptions(
        audit=audit_options(options | {"suite": suite or DEFAULT_SUITE, "out": "."}),
        folder=None if out is None else absolute_out(out),
        share_gpu=shares_gpu(options),
        **picked(BenchmarkOptions, options),
    )


@contextmanager
def random_suite(options: BenchmarkOptions, checkpoints: int) -> Iterator[AuditOptions]:
    """Context manager: the options of the audit; with ``--random`` on a temporary suite of so many checkpoints."""
    audit = options.audit
    if options.shape is None:
        yield audit
        return
    from pipeline.benchmark.shapes import TOKENS, write_random_suite

    given = {"batches": audit.batches, "batch_size": audit.batch_size, "seq_len": audit.seq_len}
    shape = replace(TokenShape(), **{name: value for name, value in given.items() if value})
    with tempfile.TemporaryDirectory(prefix="int4-collapse-") as scratch:
        suite = Path(scratch) / options.shape
        files = min(options.files, checkpoints)
        errors.print(f"writing random weights: {options.shape}, {files} files")
        write_random_suite(
            suite, options.shape, files=files, checkpoints=checkpoints, n_tokens=shape.n_tokens
        )
        yield replace(audit, suite=str(suite), corpus=audit.corpus or f"tokens:{suite / TOKENS}")
