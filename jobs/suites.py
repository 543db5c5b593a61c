"""``suites``: the known suites, or the checkpoints of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.table import Table

from jobs.console import console

if TYPE_CHECKING:
    from pipeline.suites import Suite

_RIGHT = ("step", "tokens", "learning rate")


@click.command()
@click.argument("suite", required=False)
@click.option("--revisions", metavar="REGEX", help="Only folders or branches whose whole name matches.")
@click.option("--verify", is_flag=True, help="Only what is wrong: duplicates, shared files, known defects.")
def command(suite: str | None, revisions: str | None, verify: bool) -> None:
    """List the known suites, or the checkpoints of SUITE in order of their numbers. Downloads no weights."""
    from jobs.suite import resolve_suite
    from pipeline.suites import HubSuite, known_suites, registered_suite, repository_suite

    if suite is None:
        for name in known_suites():
            entry = registered_suite(name)
            place = entry.repository if isinstance(entry, HubSuite) else "trained here at first use"
            click.echo(f"{name:28} {place}")
        return
    entry = registered_suite(suite) or repository_suite(suite)
    found = resolve_suite(suite, revisions)
    if not verify:
        console.print(_table(found))
    if isinstance(entry, HubSuite) and entry.note:
        console.print(f"note: {entry.note}", markup=False)
    _print_findings(found)


def _table(suite: Suite) -> Table:
    names = _names(suite)
    on_hub = any(checkpoint.commit for checkpoint in suite.checkpoints)
    table = Table(title=f"{suite.name}: {len(suite.checkpoints)} checkpoints", title_justify="left")
    heads = [
        "step",
        "revision",
        "tokens",
        "learning rate",
        *(["commit"] if on_hub else []),
        "content",
        "same as",
    ]
    for head in heads:
        table.add_column(head, justify="right" if head in _RIGHT else "left")
    for each in suite.checkpoints:
        table.add_row(
            f"{each.step:,}",
            each.revision,
            "-" if each.tokens_seen is None else f"{each.tokens_seen:,}",
            "-" if each.learning_rate is None else f"{each.learning_rate:.4g}",
            *([(each.commit or "-")[:12]] if on_hub else []),
            (each.weights_sha256 or each.content_id)[:12] or "-",
            "" if each.duplicate_of is None else names.get(each.duplicate_of, each.duplicate_of),
        )
    return table


def _print_findings(suite: Suite) -> None:
    names = _names(suite)
    groups: dict[str, list[str]] = {}
    for checkpoint in suite.checkpoints:
        if checkpoint.duplicate_of is not None:
            groups.setdefault(checkpoint.duplicate_of, []).append(checkpoint.revision)
    for original, copies in groups.items():
        console.print(f"same content: {names.get(original, original)}, {', '.join(copies)}", markup=False)
    for warning in suite.warnings:
        console.print(f"warning: {warning}", markup=False)
    if suite.skipped:
        console.print(f"not a checkpoint by its name: {', '.join(suite.skipped)}", markup=False)
    distinct = len(suite.checkpoints) - sum(map(len, groups.values()))
    console.print(f"{len(suite.checkpoints)} checkpoints, {distinct} distinct", markup=False)


def _names(suite: Suite) -> dict[str, str]:
    return {checkpoint.key: checkpoint.revision for checkpoint in suite.checkpoints}
