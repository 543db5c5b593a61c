"""``benchmark``: the naive Hugging Face loop against this pipeline."""

from __future__ import annotations

import dataclasses
import json

import click

from jobs.console import console, errors, progress
from jobs.options import measurement_options, resource_options, selection_options, unused_seed_option
from jobs.request import AuditOptions, build_request

DEFAULT_LIMIT = 24
TOLERANCE_NATS = 1e-6


@click.command()
@click.argument("suite", default="tiny")
@selection_options
@measurement_options
@resource_options
@unused_seed_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(as_json: bool, **options: object) -> None:
    """Time the naive Hugging Face loop and this pipeline on the same checkpoints, tokens and cores of SUITE.

    Without --steps or --limit, the suite's first 24 checkpoints are used.
    """
    from pipeline.benchmark import compare

    if options["steps"] is None and options["limit"] is None:
        options["limit"] = DEFAULT_LIMIT
    request = build_request(AuditOptions.from_command(options | {"out": "."}))
    with progress("benchmark") as show:
        result = compare(request, lambda side, done, total: show(done, total, None, side))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result) | {"ratio": result.ratio}))
    else:
        console.print(
            f"{result.checkpoints} checkpoints, {request.probe.shape.n_tokens} tokens, "
            f"{', '.join(map(str, request.probe.variants))}, {result.cores} cores, {result.device}\n"
            f"naive loop   {result.naive_s:8.3f} s per checkpoint\n"
            f"pipeline     {result.pipeline_s:8.3f} s per checkpoint (steady; {result.pipeline_total_s:.1f} s for "
            f"all, start included)\n"
            f"ratio        {result.ratio:8.2f}\n"
            f"largest nll difference {result.max_nll_difference_nats:.1e} nats",
            markup=False,
        )
    if result.max_nll_difference_nats > TOLERANCE_NATS:
        errors.print(f"the two disagree by more than {TOLERANCE_NATS:g} nats")
        raise SystemExit(1)
