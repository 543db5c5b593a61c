"""``report``: tables -> pages and figures."""

from __future__ import annotations

from typing import Any

import click

from jobs.console import console
from jobs.options import decision_options
from pipeline.runs.audit_options import DecisionOptions
from pipeline.runs.kind_of_work import KindOfWork, kinds_of_work, work_in
from pipeline.runs.output import run_folder


@click.command()
@click.argument("directory", metavar="DIR")
@decision_options
def command(directory: str, **decision: Any) -> None:
    """Draw DIR/report.html (for a fork: DIR/fork.html) and DIR/figures/*.png from the tables that `reduce` wrote.

    With another --tolerance or --level the decision is made anew, in DIR/report.json too.
    """
    chosen = DecisionOptions(**decision)
    for work in work_in(run_folder(directory)) or [kinds_of_work.find("audit")]:
        if chosen != DecisionOptions():
            work.decide(run_folder(directory, work.kind), chosen)
        show_page(work, directory)


def show_page(work: KindOfWork, directory: str) -> None:
    """Draw the page of one kind of work and print its path."""
    console.print("\n".join(work.page(run_folder(directory, work.kind))))
