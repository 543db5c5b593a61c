"""``benchmark``: the naive Hugging Face loop against this pipeline."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.benchmark_fork import compare_forks
from jobs.benchmark_fork_runs import compare_runs
from jobs.benchmark_methods import time_methods
from jobs.benchmark_random import random_suite
from jobs.benchmark_record import NUMBERS, Record, Stages
from jobs.console import console, errors, progress
from jobs.options import (
    audit_options,
    measurement_options,
    resource_options,
    selection_options,
)
from jobs.suite_argument import resolve_suite
from pipeline.base.errors import UsageError
from pipeline.base.files import write_atomically
from pipeline.runs.audit_request import build_request
from pipeline.runs.output import absolute_out
from pipeline.spec import parse_variants

if TYPE_CHECKING:
    from pipeline.benchmark import Outcome
    from pipeline.runs.requests import AuditRequest

DEFAULT_SUITE = "tiny"
DEFAULT_LIMIT = 24
ARITHMETIC_FILES = 4
"""Weight files that the comparison of arithmetics uses in turn."""


@click.command()
@click.argument("suite", required=False)
@selection_options
@measurement_options
@resource_options
@click.option("--out", metavar="DIR", help="Also write DIR/benchmark.json and DIR/benchmark.png.")
@click.option("--scaling", is_flag=True, help="Time the pipeline with one worker too, and print the ratio.")
@click.option(
    "--random",
    "shape",
    metavar="SHAPE",
    help="Use random weights of this shape instead of SUITE, such as pythia-160m.",
)
@click.option(
    "--files",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Distinct weight files that --random writes; the checkpoints use them in turn.",
)
@click.option(
    "--fork", "training", is_flag=True, help="Time training, as `fork` does it, instead of probing."
)
@click.option(
    "--tokens-per-step", type=int, default=8192, show_default=True, help="With --fork: tokens per update."
)
@click.option(
    "--updates",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="With --fork: number of updates to time.",
)
@click.option(
    "--compile/--no-compile", default=None, help="With --fork: compile the training. Default: on a GPU."
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    metavar="N",
    help="With --fork: time a whole experiment of N runs, probes included, against N naive runs.",
)
@click.option(
    "--probe-every",
    type=click.IntRange(1),
    help="With --runs: updates between probes. Default: a tenth of --updates, as for `fork`.",
)
@click.option(
    "--methods",
    is_flag=True,
    help="Time quantization methods instead, on the last checkpoints, beside the libraries that are installed.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(
    *,
    as_json: bool,
    out: str | None,
    scaling: bool,
    training: bool,
    methods: bool,
    **options: Any,
) -> None:
    """Time the naive Hugging Face loop and this pipeline on the same checkpoints, tokens and device.

    SUITE is tiny unless given. Without --steps or --limit, its first 24 checkpoints are used. On a GPU also: a table of
    the arithmetics that it offers, with their errors against float64. With --fork, training is timed instead: the loop
    one would write first against the one of `fork`, from the last checkpoint of SUITE; with --runs too, a whole
    experiment of so many runs, from the request to the last row.
    """
    # Threads that spin while they wait make the naive loop faster on an idle machine. Allow them here, so that the
    # setting of the other commands does not slow it.
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    folder = None if out is None else absolute_out(out)
    if methods and (training or scaling or options["runs"] is not None):
        raise UsageError("--methods times methods alone: leave --fork, --runs and --scaling out")
    if methods:
        time_methods(options, folder, as_json=as_json)
        return
    _refuse_calibrated(options["variants"])
    if options["probe_every"] is not None and options["runs"] is None:
        raise UsageError(f"--probe-every {options['probe_every']}: only a run of --fork --runs N is probed")
    if options["runs"] is not None and not training:
        raise UsageError(f"--runs {options['runs']}: this is a number of runs of `fork`; add --fork")
    if options["runs"] is not None:
        compare_runs(options, folder, as_json=as_json)
        return
    if training:
        compare_forks(options, folder, as_json=as_json)
        return
    with ExitStack() as stack:
        if options["shape"] is not None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="int4-collapse-")))
            options |= random_suite(scratch, options, options["limit"] or DEFAULT_LIMIT)
        if options["steps"] is None and options["limit"] is None:
            options["limit"] = DEFAULT_LIMIT
        options["suite"] = options["suite"] or DEFAULT_SUITE
        request = build_request(audit_options(options | {"out": "."}), resolve_suite)
        if options["shape"] is not None:
            from pipeline.benchmark.shapes import each_by_itself

            request = dataclasses.replace(request, suite=each_by_itself(request.suite))
        for warning in request.warnings:
            errors.print(f"warning: {warning}", markup=False)
        outcome = _measure(request, folder, scaling=scaling)
    lines = "\n".join([*outcome.comparison_lines(), *outcome.arithmetic_lines()])
    console.print(json.dumps(outcome.to_json()) if as_json else lines, markup=False)
    if folder is not None:
        _write_figure(outcome, folder)
    if outcome.disagreement is not None:
        errors.print(outcome.disagreement)
        raise SystemExit(1)


def _refuse_calibrated(variants: Sequence[str]) -> None:
    """UsageError for variants that the naive loop has no way to."""
    for variant in parse_variants(variants):
        if variant.needs:
            raise UsageError(
                f"--variant {variant}: the naive loop does not calibrate; wanted --methods beside it, or "
                "variants that need no calibration text"
            )


def _measure(request: AuditRequest, folder: Path | None, *, scaling: bool) -> Outcome:
    """Run the measurements, name each on stderr, and save each result to ``folder`` when it is known."""
    from pipeline.benchmark import Outcome, compare, compare_arithmetics
    from pipeline.suites import fetch

    record = Record(request.suite.name, folder)
    with progress("benchmark") as show:
        stages = Stages(show)
        comparison = compare(request, stages, record.add, scaling=scaling)
        arithmetics = None
        if request.resources.device == "cuda":
            distinct = [each for each in request.suite.checkpoints if each.duplicate_of is None]
            arithmetics = compare_arithmetics(
                [fetch(checkpoint) for checkpoint in distinct[:ARITHMETIC_FILES]],
                request.tokens.array,
                request.probe.variants,
                on_step=stages,
                on_part=lambda part: record.add({"arithmetics": dataclasses.asdict(part)}),
            )
    outcome = Outcome(request.suite.name, comparison, arithmetics)
    record.add(outcome.to_json())
    if folder is not None:
        errors.print(f"wrote {folder / NUMBERS}", markup=False)
    return outcome


def _write_figure(outcome: Outcome, folder: Path) -> None:
    """Writes the chart where the renderer is installed."""
    figure = _figure(outcome)
    if figure is None:
        errors.print("no benchmark.png: vl-convert-python is not installed here", markup=False)
    else:
        write_atomically(folder / "benchmark.png", figure)
        errors.print(f"wrote {folder / 'benchmark.png'}", markup=False)


def _figure(outcome: Outcome) -> bytes | None:
    """The chart as PNG; None without vl-convert."""
    try:
        from pipeline.report.axes import SCHEMA
        from pipeline.report.render import png
        from pipeline.report.theme import config, paint, tokens
    except ModuleNotFoundError:
        return None
    values = tokens((), dark=False)
    style = {**config(values), "background": values["$paper"], "padding": 14}
    style["axisY"] = {"minExtent": 0, "maxExtent": 240, "ticks": False, "labelLimit": 240}
    chart = {"config": style, **paint(outcome.chart(SCHEMA), values)}
    return png(chart)
