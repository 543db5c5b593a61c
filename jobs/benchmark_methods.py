"""``benchmark --methods``: what each quantization method costs, and the losses that it reaches."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.benchmark_random import random_suite
from jobs.benchmark_record import Record, Stages
from jobs.console import console, errors, lazy_progress, progress
from jobs.options import audit_options
from jobs.suite_argument import resolve_suite
from pipeline.runs.audit_request import build_request

if TYPE_CHECKING:
    from pipeline.runs.requests import AuditRequest

METHODS = ("int4", "int4@hqq", "int4@gptq", "int4@awq", "nf4-b64", "mxfp4", "nvfp4", "q4_0")
"""Variants that are timed unless others are named."""
LAST = 3
"""Checkpoints that are timed unless others are named: the last ones."""
NUMBERS = "methods.json"


def time_methods(options: dict[str, Any], folder: Path | None, *, as_json: bool) -> None:
    """Times and prints; ``folder`` receives the numbers too."""
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
        found = _compare(
            request, folder, chosen=any(options[name] is not None for name in ("steps", "limit"))
        )
    console.print(
        json.dumps(dataclasses.asdict(found)) if as_json else "\n".join(found.lines()), markup=False
    )


def _compare(request: AuditRequest, folder: Path | None, *, chosen: bool) -> Any:
    from pipeline.benchmark.method_timings import compare_methods
    from pipeline.suites import fetch

    distinct = [each for each in request.suite.checkpoints if each.duplicate_of is None]
    folders = [fetch(each) for each in (distinct if chosen else distinct[-LAST:])]
    record = Record(request.suite.name, folder, NUMBERS)
    with progress("methods") as show:
        found = compare_methods(
            request.suite.name,
            folders,
            request.probe,
            request.tokens.array,
            None if request.calibration is None else request.calibration.array,
            device=request.resources.device,
            on_step=Stages(show),
        )
    record.add({**dataclasses.asdict(found), "complete": True})
    return found
