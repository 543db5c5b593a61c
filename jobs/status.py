"""``status``: what a folder holds, read from its files only."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from jobs.console import console
from jobs.watch import watch_run
from pipeline.runs.kind_of_work import KindOfWork, kinds_of_work, work_in
from pipeline.runs.output import run_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.runs.folder import RunFolder


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--watch", is_flag=True, help="Show the run's events until it ends.")
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
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
    states = {each.name: _state(folder, each) for each in work_in(folder) or [kinds_of_work.find("audit")]}
    if as_json:
        first, *others = states.items()
        fields = {name: state for name, (state, _) in others}
        click.echo(json.dumps({**first[1][0], "kind": first[0], **fields}))
        return
    for name, (state, lines) in states.items():
        _show(state, lines, "" if name == "audit" else f" {name}")


def _state(at: RunFolder, work: KindOfWork) -> tuple[dict[str, Any], Sequence[str]]:
    """The status of one kind of work in a folder, and lines on its unfinished tasks."""
    from pipeline.runs.folder_status import folder_status

    folder = at.of(work.kind)
    plan = folder.read_plan()
    found = folder_status(folder, plan)
    unfinished = work.unfinished(folder, plan, found)
    state = {
        "suite": plan.suite,
        "expected": len(plan.expected()),
        **dataclasses.asdict(found),
        "duplicates": plan.duplicates(),
        **unfinished.fields,
    }
    return state, unfinished.lines


def _show(state: dict[str, Any], lines: Sequence[str], label: str) -> None:
    from pipeline.runs.shard import Lacks

    incomplete = f"{len(state['incomplete'])} incomplete, " if state["incomplete"] else ""
    console.print(
        f"{state['suite']}{label}: {len(state['done'])} done, {len(state['failed'])} failed, "
        f"{incomplete}{len(state['stale'])} stale, {len(state['missing'])} missing of {state['expected']}",
        markup=False,
    )
    for word, reasons in (
        ("failed", state["failed"]),
        ("corrupt", state["corrupt"]),
        ("incomplete", {key: str(Lacks(**lacks)) for key, lacks in state["incomplete"].items()}),
        ("stale", {key: "; ".join(fields) for key, fields in state["stale"].items()}),
        ("duplicate", {key: f"same content as {original}" for key, original in state["duplicates"].items()}),
    ):
        for key, reason in reasons.items():
            console.print(f"  {word} {key}: {reason}", markup=False)
    for line in lines:
        console.print(f"  {line}", markup=False)
    if state["missing"]:
        more = ", ..." if len(state["missing"]) > 8 else ""
        console.print(f"  not measured yet: {', '.join(state['missing'][:8])}{more}", markup=False)
