"""``reduce``: shards -> tables and numbers."""

from __future__ import annotations

from typing import Any

import click

from jobs.console import console, rich_table
from jobs.options import decision_options, missing_option, seed_option
from pipeline.runs.audit_options import DecisionOptions
from pipeline.runs.kind_of_work import KindOfWork, kinds_of_work, work_in
from pipeline.runs.output import run_folder


@click.command()
@click.argument("directory", metavar="DIR")
@missing_option
@seed_option
@decision_options
def command(directory: str, allow_missing: bool, seed: int, **decision: Any) -> None:
    """Join the shards in DIR into DIR/tables/ and DIR/report.json (for a fork: DIR/tables/schedules.json)."""
    chosen = DecisionOptions(**decision)
    for work in work_in(run_folder(directory)) or [kinds_of_work.find("audit")]:
        show_reduction(work, directory, chosen, allow_missing=allow_missing, seed=seed)


def show_reduction(
    work: KindOfWork,
    directory: str,
    chosen: DecisionOptions = DecisionOptions(),  # noqa: B008 - frozen
    *,
    allow_missing: bool,
    seed: int,
) -> None:
    """Reduce one kind of work and print the result."""
    folder = run_folder(directory, work.kind)
    found = work.reduce(folder, allow_missing=allow_missing, seed=seed)
    decided = work.decide(folder, chosen)
    if found.table is not None:
        console.print(rich_table(found.table))
    for line in (*decided, *found.sentences, *found.places):
        console.print(line)
