"""``benchmark --random``: checkpoints of a published shape instead of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.console import errors
from pipeline.base.errors import UsageError
from pipeline.spec import TokenShape


def random_suite(scratch: Path, options: dict[str, Any], checkpoints: int) -> dict[str, Any]:
    """Write the suite of ``--random`` under ``scratch``; return the options that select it and its tokens."""
    from pipeline.benchmark.shapes import TOKENS, write_random_suite

    if options["suite"] is not None:
        raise UsageError(
            f"--random {options['shape']} replaces the suite {options['suite']}: give one of them"
        )
    default = TokenShape()
    shape = TokenShape(
        options["batches"] or default.batches,
        options["batch_size"] or default.batch_size,
        options["seq_len"] or default.seq_len,
    )
    suite = scratch / options["shape"]
    files = min(options["files"], checkpoints)
    errors.print(f"writing random weights: {options['shape']}, {files} files", markup=False)
    write_random_suite(suite, options["shape"], files=files, checkpoints=checkpoints, n_tokens=shape.n_tokens)
    return {"suite": str(suite), "corpus": options["corpus"] or f"tokens:{suite / TOKENS}"}
