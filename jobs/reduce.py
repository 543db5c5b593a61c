"""``reduce``: shards -> tables and numbers."""

from __future__ import annotations

import click

from jobs.console import console, rich_table
from jobs.options import missing_option, seed_option
from pipeline.runs.kind_of_work import KindOfWork, kinds_of_work, work_in
from pipeline.runs.output import run_folder


@click.command()
@click.argument("directory", metavar="DIR")
@missing_option
@seed_option
def command(directory: str, allow_missing: bool, seed: int) -> None:
    """Join the shards in DIR into DIR/tables/ and DIR/report.json (for a fork: DIR/tables/schedules.json)."""
    for work in work_in(run_folder(directory)) or [kinds_of_work.find("audit")]:
        show_reduction(work, directory, allow_missing=allow_missing, seed=seed)


def show_reduction(work: KindOfWork, directory: str, *, allow_missing: bool, seed: int) -> None:
    """Reduce one kind of work and print the result."""
    found = work.reduce(run_folder(directory, work.kind), allow_missing=allow_missing, seed=seed)
    if found.table is not None:
        console.print(rich_table(found.table))
    for line in (*found.sentences, *found.places):
        console.print(line, markup=False)
