"""``report``: tables -> report.html and figures."""

from __future__ import annotations

import json

import click

from jobs.console import console
from jobs.options import absolute_out

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

    from pipeline.errors import UsageError
    from pipeline.report import build_figures, build_report
    from pipeline.shards import RunFolder

    folder = RunFolder(absolute_out(directory))
    wanted = (folder.report_json, folder.tables / "trajectory.parquet", folder.tables / "tensors.parquet")
    missing = [str(path) for path in wanted if not path.is_file()]
    if missing:
        raise UsageError(
            f"nothing to report: {', '.join(missing)} not there; run `int4-collapse reduce {folder}`"
        )
    try:
        report = json.loads(folder.report_json.read_text())
        trajectory, tensors = pl.read_parquet(wanted[1]), pl.read_parquet(wanted[2])
        provenance = {name: report[name] for name in PROVENANCE}
        fork = None
        if folder.schedules_json.is_file():
            fork = (
                pl.read_parquet(folder.tables / "fork.parquet"),
                json.loads(folder.schedules_json.read_text()),
            )
    except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(
            f"the tables in {folder} are damaged ({error}); run `int4-collapse reduce {folder}`"
        ) from error
    folder.write_result(folder.report_html, build_report(trajectory, tensors, report, provenance, fork))
    for name, png in build_figures(trajectory, tensors, report).items():
        folder.write_figure(name, png)
    console.print(f"report: {folder.report_html}\nfigures: {folder.figures}", markup=False)
