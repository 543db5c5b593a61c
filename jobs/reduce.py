"""``reduce``: shards -> tables and report.json."""

from __future__ import annotations

import click

from jobs.console import console
from jobs.options import missing_option, seed_option
from pipeline.runs.output import run_folder


@click.command()
@click.argument("directory", metavar="DIR")
@missing_option
@seed_option
def command(directory: str, allow_missing: bool, seed: int) -> None:
    """Join the shards in DIR into DIR/tables/ and DIR/report.json (of a fork, DIR/tables/schedules.json)."""
    from jobs.fork_results import holds_audit, holds_fork, reduce_fork_folder

    if holds_audit(directory) or not holds_fork(directory):
        run_reduce(directory, allow_missing=allow_missing, seed=seed)
    if holds_fork(directory):
        reduce_fork_folder(directory, allow_missing=allow_missing, seed=seed)


def run_reduce(directory: str, *, allow_missing: bool, seed: int) -> None:
    """Reduces and prints the summary table."""
    from jobs.summary import summary_table
    from pipeline.analysis.reduce import reduce_run, write_reduction
    from pipeline.shards import REPORT, TABLES

    folder = run_folder(directory)
    reduction = reduce_run(folder, allow_missing=allow_missing, seed=seed)
    write_reduction(folder, reduction)
    console.print(summary_table(reduction.trajectory))
    for sentence in reduction.report["verdict"]:
        console.print(sentence, markup=False)
    console.print(f"tables: {folder.place(TABLES)}\nnumbers: {folder.place(REPORT)}", markup=False)
