"""``status``: what a folder holds, read from its files only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import click

from jobs.console import console
from jobs.options import FiniteRange
from jobs.watch import watch_run
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus, folder_status
from pipeline.runs.kind_of_work import KindOfWork, Unfinished, kinds_of_work, work_in
from pipeline.runs.output import run_folder
from pipeline.runs.plans import WorkPlan


@click.command()
@click.argument("directory", metavar="DIR")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object instead of text; with --watch one per line."
)
@click.option("--watch", is_flag=True, help="Show the run's events until it ends.")
@click.option(
    "--every",
    type=FiniteRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two updates of --watch.",
)
def command(directory: str, as_json: bool, watch: bool, every: float) -> None:
    """List which checkpoints of DIR, and which runs of its fork experiment, are done, failed, stale or missing."""
    if watch:
        watch_run(run_folder(directory), every, as_json=as_json)
        return
    folder = run_folder(directory)
    states = [_state(folder, each) for each in work_in(folder) or [kinds_of_work.find("audit")]]
    if as_json:
        first, *others = states
        further = {each.name: each.fields() for each in others}
        click.echo(json.dumps({**first.fields(), "kind": first.name, **further}))
        return
    for state in states:
        _show(state)


@dataclass(frozen=True)
class WorkState:
    """What a folder holds of one kind of work."""

    name: str
    plan: WorkPlan
    found: FolderStatus
    unfinished: Unfinished

    def fields(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "suite": self.plan.suite,
            "expected": len(self.plan.expected()),
            **asdict(self.found),
            "duplicates": self.plan.duplicates(),
            **self.unfinished.fields,
        }


def _state(at: RunFolder, work: KindOfWork) -> WorkState:
    folder = at.of(work.kind)
    plan = folder.read_plan()
    found = folder_status(folder, plan)
    return WorkState(work.name, plan, found, work.unfinished(folder, plan, found))


def _show(state: WorkState) -> None:
    found, label = state.found, "" if state.name == "audit" else f" {state.name}"
    incomplete = f"{len(found.incomplete)} incomplete, " if found.incomplete else ""
    console.print(
        f"{state.plan.suite}{label}: {len(found.done)} done, {len(found.failed)} failed, {incomplete}"
        f"{len(found.stale)} stale, {len(found.missing)} missing of {len(state.plan.expected())}"
    )
    same = {key: f"same content as {original}" for key, original in state.plan.duplicates().items()}
    for word, reasons in (
        ("failed", found.failed),
        ("corrupt", found.corrupt),
        ("incomplete", {key: str(lacks) for key, lacks in found.incomplete.items()}),
        ("stale", {key: "; ".join(fields) for key, fields in found.stale.items()}),
        ("duplicate", same),
    ):
        for key, reason in reasons.items():
            console.print(f"  {word} {key}: {reason}")
    for line in state.unfinished.lines:
        console.print(f"  {line}")
    if found.missing:
        more = ", ..." if len(found.missing) > 8 else ""
        console.print(f"  not measured yet: {', '.join(found.missing[:8])}{more}")
