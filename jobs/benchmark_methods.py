"""``benchmark --methods``: what each quantization method costs, and the losses that it reaches."""

from __future__ import annotations

import dataclasses

from jobs.audit import checked_request
from jobs.benchmark_options import BenchmarkOptions, random_suite
from jobs.benchmark_record import Stages, saver
from jobs.console import errors, progress
from pipeline.benchmark import Benchmark
from pipeline.suites import fetch

METHODS = ("int4", "int4@hqq", "int4@gptq", "int4@awq", "nf4-b64", "mxfp4", "nvfp4", "q4_0")
"""Variants that are timed unless others are named."""
LAST = 3
"""Checkpoints that are timed unless others are named: the last ones."""


def time_methods(options: BenchmarkOptions) -> Benchmark:
    """Time every method."""
    from pipeline.benchmark.method_timings import compare_methods

    asked = options.audit
    with random_suite(options, asked.limit or LAST) as audit:
        request = checked_request(dataclasses.replace(audit, variants=audit.variants or METHODS), on=errors)
        some_named, distinct = (asked.steps, asked.limit) != (None, None), request.suite.distinct
        with progress("methods", errors) as show:
            return compare_methods(
                request.suite.name,
                [fetch(each) for each in (distinct if some_named else distinct[-LAST:])],
                request.probe,
                request.tokens.array,
                None if request.calibration is None else request.calibration.array,
                device=request.resources.device,
                pythons=options.pythons,
                on_step=Stages(show),
                on_part=saver(options.folder),
            )
