"""``benchmark``: the naive Hugging Face loop against this pipeline."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.benchmark_fork import compare_forks
from jobs.console import Report, console, errors, progress
from jobs.options import (
    absolute_out,
    measurement_options,
    resource_options,
    selection_options,
    unused_seed_option,
)
from jobs.request import AuditOptions, build_request
from pipeline.errors import UsageError
from pipeline.files import make_folder, write_atomically
from pipeline.spec import TokenShape

if TYPE_CHECKING:
    from pipeline.audit import AuditRequest
    from pipeline.benchmark import Outcome

DEFAULT_SUITE = "tiny"
DEFAULT_LIMIT = 24
ARITHMETIC_FILES = 4
"""Checkpoints that the arithmetics of a GPU are compared on, used in turn."""
NUMBERS = "benchmark.json"


@click.command()
@click.argument("suite", required=False)
@selection_options
@measurement_options
@resource_options
@unused_seed_option
@click.option("--out", metavar="DIR", help="Also write DIR/benchmark.json and DIR/benchmark.png.")
@click.option("--scaling", is_flag=True, help="Time the pipeline with one worker too, and print the ratio.")
@click.option(
    "--random", "shape", metavar="SHAPE", help="Instead of SUITE: random weights of a shape, as pythia-160m."
)
@click.option(
    "--files",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Distinct weight files of --random; its checkpoints use them in turn.",
)
@click.option(
    "--fork", "training", is_flag=True, help="Time training, as `fork` does it, instead of probing."
)
@click.option(
    "--tokens-per-step", type=int, default=8192, show_default=True, help="Of --fork: tokens of an update."
)
@click.option(
    "--updates", type=click.IntRange(1), default=40, show_default=True, help="Of --fork: updates timed."
)
@click.option("--compile/--no-compile", default=None, help="Of --fork: compiled training. Default: on a GPU.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(as_json: bool, out: str | None, scaling: bool, training: bool, **options: Any) -> None:
    """Time the naive Hugging Face loop and this pipeline on the same checkpoints, tokens and device.

    SUITE is tiny unless given. Without --steps or --limit, its first 24 checkpoints are used. On a GPU also: a table of
    the arithmetics that it offers, with their errors against float64. With --fork, training is timed instead: the loop
    one would write first against the one of `fork`, from the last checkpoint of SUITE.
    """
    # Threads that spin while they wait are what favours the naive loop, as long as nothing else runs: it must not be
    # slowed by the setting that the other commands choose.
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    folder = None if out is None else absolute_out(out)
    if training:
        compare_forks(options, folder, as_json=as_json)
        return
    with ExitStack() as stack:
        if options["shape"] is not None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="int4-collapse-")))
            options |= _random_suite(scratch, options)
        if options["steps"] is None and options["limit"] is None:
            options["limit"] = DEFAULT_LIMIT
        options["suite"] = options["suite"] or DEFAULT_SUITE
        request = build_request(AuditOptions.from_command(options | {"out": "."}))
        outcome = _measure(request, folder, scaling=scaling)
    lines = "\n".join([*outcome.comparison_lines(), *outcome.arithmetic_lines()])
    console.print(json.dumps(outcome.to_json()) if as_json else lines, markup=False)
    if folder is not None:
        _write_figure(outcome, folder)
    if outcome.disagreement is not None:
        errors.print(outcome.disagreement)
        raise SystemExit(1)


def _random_suite(scratch: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Writes the suite of ``--random`` under ``scratch``; the options that lead to it."""
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
    checkpoints = options["limit"] or DEFAULT_LIMIT
    errors.print(f"writing random weights: {options['shape']}, {options['files']} files", markup=False)
    write_random_suite(
        suite, options["shape"], files=options["files"], checkpoints=checkpoints, n_tokens=shape.n_tokens
    )
    return {"suite": str(suite), "corpus": options["corpus"] or f"tokens:{suite / TOKENS}"}


def _measure(request: AuditRequest, folder: Path | None, *, scaling: bool) -> Outcome:
    """Measures, saying on stderr what, and keeps what is found in ``folder`` as it comes."""
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


class Stages:
    """Says on stderr what is being measured, and how long after the start, whenever that changes."""

    def __init__(self, show: Report) -> None:
        self._show, self._start, self._last = show, time.monotonic(), ""

    def __call__(self, stage: str, done: int = 0, total: int = 1) -> None:
        if stage != self._last:
            errors.print(f"{time.monotonic() - self._start:6.1f} s: {stage}", markup=False)
            self._last = stage
        self._show(done, total, None, stage)


class Record:
    """``benchmark.json`` from the first number on: what was found before a run ended early is there."""

    def __init__(self, suite: str, folder: Path | None) -> None:
        self._found: dict[str, Any] = {"suite": suite, "complete": False}
        self._folder = folder
        if folder is not None:
            make_folder(folder)

    def add(self, part: dict[str, Any]) -> None:
        """Adds ``part`` to what is there."""
        self._found |= part
        if self._folder is not None:
            write_atomically(self._folder / NUMBERS, (json.dumps(self._found, indent=1) + "\n").encode())


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
        import vl_convert

        from pipeline.report.axes import SCHEMA, VL_VERSION
        from pipeline.report.figures import SCALE
        from pipeline.report.theme import config, paint, tokens
    except ModuleNotFoundError:
        return None
    values = tokens((), dark=False)
    style = {**config(values), "background": values["$paper"], "padding": 14}
    style["axisY"] = {"minExtent": 0, "maxExtent": 240, "ticks": False, "labelLimit": 240}
    chart = {"config": style, **paint(outcome.chart(SCHEMA), values)}
    png: bytes = vl_convert.vegalite_to_png(chart, vl_version=VL_VERSION, scale=SCALE)
    return png
