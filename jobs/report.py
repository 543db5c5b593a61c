"""``report``: tables -> pages and figures."""

from __future__ import annotations

import click

from jobs.console import console
from pipeline.runs.kind_of_work import KindOfWork, kinds_of_work, work_in
from pipeline.runs.output import run_folder


@click.command()
@click.argument("directory", metavar="DIR")
def command(directory: str) -> None:
    """Draw DIR/report.html (for a fork: DIR/fork.html) and DIR/figures/*.png from the tables that `reduce` wrote."""
    for work in work_in(run_folder(directory)) or [kinds_of_work.find("audit")]:
        show_page(work, directory)


def show_page(work: KindOfWork, directory: str) -> None:
    """Draw the page of one kind of work and print its path."""
    console.print("\n".join(work.page(run_folder(directory, work.kind))), markup=False)
