"""``status``: what a folder holds, read from its files only."""

from __future__ import annotations

import dataclasses
import json

import click

from jobs.console import console
from jobs.options import absolute_out


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def command(directory: str, as_json: bool) -> None:
    """Say which checkpoints of DIR are done, failed, stale or missing."""
    from pipeline.shards import RunFolder
    from pipeline.survey import survey

    folder = RunFolder(absolute_out(directory))
    plan = folder.read_plan()
    found = survey(folder, plan)
    duplicates = {c.key: c.duplicate_of for c in plan.checkpoints if c.duplicate_of is not None}
    if as_json:
        state = {"suite": plan.suite, "expected": len(plan.checkpoints), **dataclasses.asdict(found)}
        click.echo(json.dumps(state | {"duplicates": duplicates}))
        return
    console.print(
        f"{plan.suite}: {len(found.done)} done, {len(found.failed)} failed, {len(found.stale)} stale, "
        f"{len(found.missing)} missing of {len(plan.checkpoints)}",
        markup=False,
    )
    for word, reasons in (
        ("failed", found.failed),
        ("corrupt", found.corrupt),
        ("stale", {key: "; ".join(fields) for key, fields in found.stale.items()}),
        ("duplicate", {key: f"same content as {original}" for key, original in duplicates.items()}),
    ):
        for key, reason in reasons.items():
            console.print(f"  {word} {key}: {reason}", markup=False)
    if found.missing:
        more = ", ..." if len(found.missing) > 8 else ""
        console.print(f"  not measured yet: {', '.join(found.missing[:8])}{more}", markup=False)
