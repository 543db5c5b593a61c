"""``benchmark``: the naive Hugging Face loop against this pipeline."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import click

from jobs.audit import checked_request
from jobs.benchmark_fork import compare_forks
from jobs.benchmark_fork_runs import compare_runs
from jobs.benchmark_methods import time_methods
from jobs.benchmark_options import BenchmarkOptions, benchmark_options, random_suite
from jobs.benchmark_record import Stages, finish, saver
from jobs.console import errors, progress
from jobs.options import measurement_options, options_of, resource_options, selection_options
from pipeline.base.errors import UsageError
from pipeline.benchmark import Benchmark
from pipeline.spec import parse_variants
from pipeline.suites import fetch

DEFAULT_LIMIT = 24
ARITHMETIC_FILES = 4
"""Weight files that the comparison of arithmetics uses in turn."""
GOES_WITH = {
    "runs": ("training", "--fork"),
    "updates": ("training", "--fork"),
    "tokens_per_step": ("training", "--fork"),
    "compile": ("training", "--fork"),
    "probe_every": ("runs", "--runs"),
    "pythons": ("methods", "--methods"),
    "files": ("shape", "--random"),
}
"""Option -> the option that it changes, and its name for users."""
OF_AUDITS = ("scaling", "steps", "limit")
OF_PROBES = ("variants", "measurements", "mechanism", "calibration", "batches", "batch_size")
"""Options that a fork has no use for, and those of probes, which training alone has none of."""


@click.command()
@click.argument("suite", required=False)
@selection_options
@measurement_options
@resource_options
@click.option(
    "--out",
    metavar="DIR",
    help="Also write the numbers and a chart: DIR/benchmark.json and benchmark.png, with -fork, -fork-runs or -methods "
    "after their name.",
)
@options_of(BenchmarkOptions)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(*, as_json: bool, **options: Any) -> None:
    """Time the naive Hugging Face loop and this pipeline on the same checkpoints, tokens and device.

    SUITE is tiny unless given. Without --steps or --limit, its first 24 checkpoints are used. On a GPU also: a table of
    the arithmetics that it offers, with their errors against float64. With --fork, training is timed instead: the loop
    one would write first against the one of `fork`, from the last checkpoint of SUITE; with --runs too, a whole
    experiment of so many runs, from the request to the last row.
    """
    # Threads that spin while they wait make the naive loop faster on an idle machine. Allow them here, so that the
    # setting of the other commands does not slow it.
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    _refuse_idle(click.get_current_context())
    chosen = benchmark_options(options)
    if chosen.methods:
        found = time_methods(chosen)
    else:
        _refuse_calibrated(chosen.audit.variants)
        if chosen.runs is not None:
            found = compare_runs(chosen, chosen.runs)
        else:
            found = compare_forks(chosen) if chosen.training else _compare_audits(chosen)
    finish(found, chosen.folder, as_json=as_json)


def _refuse_idle(context: click.Context) -> None:
    """UsageError for an option that the chosen work has no use for."""
    given = {
        each.name: each.opts[0]
        for each in context.command.params
        if each.name and context.get_parameter_source(each.name) == click.core.ParameterSource.COMMANDLINE
    }
    for name, (needed, flag) in GOES_WITH.items():
        if name in given and needed not in given:
            raise UsageError(f"{given[name]} goes with {flag}: add {flag}, or leave it out")
    work: tuple[str, tuple[str, ...]] = ("", ())
    if "methods" in given:
        work = "--methods", ("training", "runs", "scaling")
    elif "runs" in given:
        work = "--runs", OF_AUDITS
    elif "training" in given:
        work = "--fork", (*OF_AUDITS, *OF_PROBES)
    said = [given[name] for name in work[1] if name in given]
    if said:
        raise UsageError(f"{work[0]} has no use for {' and '.join(said)}: leave it out")


def _refuse_calibrated(variants: Sequence[str]) -> None:
    """UsageError for variants that the naive loop has no way to."""
    for variant in parse_variants(variants):
        if variant.needs:
            raise UsageError(
                f"--variant {variant}: the naive loop does not calibrate; wanted --methods beside it, or "
                "variants that need no calibration text"
            )


def _compare_audits(options: BenchmarkOptions) -> Benchmark:
    """Run the measurements, name each on stderr, and save each result when it is known."""
    from pipeline.benchmark.device import with_arithmetics
    from pipeline.benchmark.shapes import each_by_itself
    from pipeline.benchmark.side_by_side import compare

    save, asked = saver(options.folder), options.audit
    if asked.steps is None and asked.limit is None:
        options = dataclasses.replace(options, audit=dataclasses.replace(asked, limit=DEFAULT_LIMIT))
    with random_suite(options, asked.limit or DEFAULT_LIMIT) as audit:
        request = checked_request(audit, on=errors)
        if options.shape is not None:
            request = dataclasses.replace(request, suite=each_by_itself(request.suite))
        with progress("benchmark", errors) as show:
            stages = Stages(show)
            found = compare(request, stages, save, scaling=options.scaling)
            if request.resources.device == "cuda":
                found = with_arithmetics(
                    found,
                    [fetch(checkpoint) for checkpoint in request.suite.distinct[:ARITHMETIC_FILES]],
                    request.tokens.array,
                    request.probe.variants,
                    on_step=stages,
                    on_part=save,
                )
    return found.plus(complete=True)
