"""``report``: tables -> report.html and figures."""

from __future__ import annotations

import json

import click

from jobs.console import console
from jobs.results import required_results
from pipeline.runs.output import run_folder

PAGE = "report.html"
PROVENANCE = ("suite", "corpus", "fingerprint", "config", "versions", "wall_s")
"""What the report says of where its numbers come from."""


@click.command()
@click.argument("directory", metavar="DIR")
def command(directory: str) -> None:
    """Draw DIR/report.html (of a fork, DIR/fork.html) and DIR/figures/*.png from the tables that `reduce` wrote."""
    from jobs.fork_results import holds_audit, holds_fork, report_fork_folder

    if holds_audit(directory) or not holds_fork(directory):
        run_report(directory)
    if holds_fork(directory):
        report_fork_folder(directory)


def run_report(directory: str) -> None:
    """Draws everything and prints where it is."""
    import polars as pl

    from jobs.fork_results import refuse_earlier
    from pipeline.errors import UsageError
    from pipeline.report import build_figures, build_report
    from pipeline.shards import FIGURES, REPORT, SCHEDULES, TABLES

    folder = run_folder(directory)
    wanted = (REPORT, f"{TABLES}/trajectory.parquet", f"{TABLES}/tensors.parquet")
    files = required_results(folder, *wanted)
    try:
        report = json.loads(files[0])
        trajectory, tensors = pl.read_parquet(files[1]), pl.read_parquet(files[2])
        provenance = {name: report[name] for name in PROVENANCE}
        fork = None
        schedules = folder.read_result(SCHEDULES)
        if schedules is not None:
            (table,) = required_results(folder, f"{TABLES}/fork.parquet")
            fork = (pl.read_parquet(table), json.loads(schedules))
            refuse_earlier(fork[1], directory)
    except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(
            f"the tables in {folder} are damaged ({error}); run `int4-collapse reduce {folder}`"
        ) from error
    folder.write_result(PAGE, build_report(trajectory, tensors, report, provenance, fork))
    for name, png in build_figures(trajectory, tensors, report).items():
        folder.write_figure(name, png)
    console.print(f"report: {folder.place(PAGE)}\nfigures: {folder.place(FIGURES)}", markup=False)
