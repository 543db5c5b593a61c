"""The options of ``benchmark`` as one value, and the checkpoints that ``--random`` measures instead of a suite."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.console import errors
from jobs.options import picked, shares_gpu
from pipeline.base.english import counted
from pipeline.base.errors import UsageError
from pipeline.base.option_fields import option
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
    scaling: bool = option(False, help="Time the pipeline with one worker too, and print the ratio.")
    shape: str | None = option(
        None, name="--random", metavar="SHAPE",
        help="Use random weights of this shape instead of SUITE, such as pythia-160m.",
    )  # fmt: skip
    files: int = option(
        8, least=1, help="Distinct weight files that --random writes; the checkpoints use them in turn."
    )
    training: bool = option(
        False, name="--fork", help="Time training, as `fork` does it, instead of probing."
    )
    tokens_per_step: int = option(8192, help="With --fork: tokens per update.")
    updates: int = option(40, least=1, help="With --fork: number of updates to time.")
    compile: bool | None = option(None, help="With --fork: compile the training. Default: on a GPU.")
    runs: int | None = option(
        None, metavar="N", least=1,
        help="With --fork: time a whole experiment of N runs, probes included, against N naive runs.",
    )  # fmt: skip
    probe_every: int | None = option(
        None, least=1,
        help="With --runs: updates between probes. Default: a tenth of --updates, as for `fork`.",
    )  # fmt: skip
    methods: bool = option(
        False,
        help="Time quantization methods instead, on the last checkpoints, beside GPTQModel and llm-compressor.",
    )
    pythons: tuple[str, ...] = option(
        (), name="--peer-python", metavar="PYTHON",
        help="With --methods: the interpreter of an environment in which GPTQModel or llm-compressor is installed; "
        "repeatable. Default: this one.",
    )  # fmt: skip
    share_gpu: bool = False
    """Whether the size of the model decides how many runs share a GPU."""


def benchmark_options(options: dict[str, Any]) -> BenchmarkOptions:
    """The options as click read them; UsageError for a suite beside ``--random``."""
    suite, shape, out = options["suite"], options["shape"], options["out"]
    if shape is not None and suite is not None:
        raise UsageError(f"--random {shape} replaces the suite {suite}: give one of them")
    return BenchmarkOptions(
        audit=AuditOptions(**picked(AuditOptions, options) | {"suite": suite or DEFAULT_SUITE, "out": "."}),
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
        errors.print(f"writing random weights: {options.shape}, {counted(files, 'file')}")
        write_random_suite(
            suite, options.shape, files=files, checkpoints=checkpoints, n_tokens=shape.n_tokens
        )
        yield replace(audit, suite=str(suite), corpus=audit.corpus or f"tokens:{suite / TOKENS}")
