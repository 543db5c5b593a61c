"""``status``: what a folder holds, read from its files only."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from jobs.console import console
from jobs.watch import watch_run
from pipeline.runs.output import run_folder

if TYPE_CHECKING:
    from pipeline.shards import Kind


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option("--watch", is_flag=True, help="Go on until the run ends, with what happens in it.")
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks of --watch.",
)
def command(directory: str, as_json: bool, watch: bool, every: float) -> None:
    """Say which checkpoints of DIR, and which runs of its fork experiment, are done, failed, stale or missing."""
    if watch:
        watch_run(run_folder(directory), every, as_json=as_json)
        return
    from jobs.fork_results import holds_audit, holds_fork
    from pipeline.shards import AUDIT, FORK

    kinds = [kind for kind, there in ((AUDIT, holds_audit), (FORK, holds_fork)) if there(directory)]
    states = {kind.name: _state(directory, kind) for kind in kinds or [AUDIT]}
    if as_json:
        first, *others = states.items()
        click.echo(json.dumps({**first[1], "kind": first[0], **dict(others)}))
        return
    for name, state in states.items():
        _show(state, "" if name == "audit" else f" {name}")


def _state(directory: str, kind: Kind) -> dict[str, Any]:
    """The survey of one kind of work in ``directory``."""
    from pipeline.shards import ForkPlan
    from pipeline.survey import survey

    folder = run_folder(directory, kind)
    plan = folder.read_plan()
    found = survey(folder, plan)
    state = {
        "suite": plan.suite,
        "expected": len(plan.expected()),
        **dataclasses.asdict(found),
        "duplicates": plan.duplicates(),
    }
    if isinstance(plan, ForkPlan):
        made = folder.updates_made()
        state["updates_of_a_run"] = plan.updates
        state["updates_made"] = {key: made[key] for key in found.to_measure if key in made}
    return state


def _show(state: dict[str, Any], label: str) -> None:
    from pipeline.shards import Lacks

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
    for key, made in state.get("updates_made", {}).items():
        console.print(f"  {key}: {made:,} of {state['updates_of_a_run']:,} updates", markup=False)
    if state["missing"]:
        more = ", ..." if len(state["missing"]) > 8 else ""
        console.print(f"  not measured yet: {', '.join(state['missing'][:8])}{more}", markup=False)
