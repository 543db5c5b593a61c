"""``benchmark --methods``: what each quantization method costs, and the losses that it reaches."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.benchmark_random import random_suite
from jobs.benchmark_record import Stages, finish, saver
from jobs.console import errors, lazy_progress, progress
from jobs.options import audit_options
from jobs.suite_argument import resolve_suite
from pipeline.runs.audit_request import build_request

if TYPE_CHECKING:
    from pipeline.benchmark import Benchmark
    from pipeline.runs.requests import AuditRequest

METHODS = ("int4", "int4@hqq", "int4@gptq", "int4@awq", "nf4-b64", "mxfp4", "nvfp4", "q4_0")
"""Variants that are timed unless others are named."""
LAST = 3
"""Checkpoints that are timed unless others are named: the last ones."""


def time_methods(options: dict[str, Any], folder: Path | None, *, as_json: bool) -> None:
    """Time every method and print; ``folder`` receives the numbers too."""
    with ExitStack() as stack:
        if options["shape"] is not None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="int4-collapse-")))
            options |= random_suite(scratch, options, options["limit"] or LAST)
        options |= {
            "suite": options["suite"] or "tiny",
            "variants": options["variants"] or METHODS,
            "out": ".",
        }
        on_sample = stack.enter_context(lazy_progress("calibration text"))
        request = build_request(audit_options(options), resolve_suite, on_sample)
        for warning in request.warnings:
            errors.print(f"warning: {warning}", markup=False)
        chosen = any(options[name] is not None for name in ("steps", "limit"))
        found = _compare(request, folder, options["pythons"], chosen=chosen)
    finish(found, folder, as_json=as_json)


def _compare(
    request: AuditRequest, folder: Path | None, pythons: tuple[str, ...], *, chosen: bool
) -> Benchmark:
    from pipeline.benchmark.method_timings import compare_methods
    from pipeline.suites import fetch

    distinct = [each for each in request.suite.checkpoints if each.duplicate_of is None]
    with progress("methods") as show:
        return compare_methods(
            request.suite.name,
            [fetch(each) for each in (distinct if chosen else distinct[-LAST:])],
            request.probe,
            request.tokens.array,
            None if request.calibration is None else request.calibration.array,
            device=request.resources.device,
            pythons=pythons,
            on_step=Stages(show),
            on_part=saver(folder),
        )
