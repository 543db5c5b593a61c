"""``suites``: the known suites, or the checkpoints of one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.console import console, errors, tab_separated

if TYPE_CHECKING:
    from pipeline.spec import Checkpoint
    from pipeline.suites import Suite

COLUMNS = ("step", "revision", "tokens", "learning_rate", "content", "same_as")
HUB_COLUMNS = (*COLUMNS, "commit")
_RIGHT = ("step", "tokens", "learning_rate")


@click.command()
@click.argument("suite", required=False)
@click.option("--revisions", metavar="REGEX", help="Only folders or branches whose whole name matches.")
@click.option(
    "--verify",
    is_flag=True,
    help="Instead of the table: checkpoints of the same content or with shared files, missing weights, known defects.",
)
def command(suite: str | None, revisions: str | None, verify: bool) -> None:
    """List the known suites, or the checkpoints of SUITE in order of their numbers. No weights are downloaded.

    On a terminal as a table; elsewhere as tab-separated lines under a header, and remarks on stderr.
    """
    from jobs.suite_argument import resolve_suite
    from pipeline.suites import known_suites

    if suite is None:
        for name in known_suites():
            click.echo(f"{name}\t{_place(name)}")
        return
    found = resolve_suite(suite, revisions)
    if verify:
        _print_findings(found, console)
    elif sys.stdout.isatty():
        console.print(_table(found))
        _print_findings(found, console)
    else:
        for row in (_columns(found), *_rows(found)):
            click.echo(tab_separated(row))
        _print_findings(found, errors)


def _rows(suite: Suite) -> list[tuple[str, ...]]:
    """Rows for programs: the cells of COLUMNS for each checkpoint, plain numbers, empty if not known."""
    names = _names(suite)
    return [
        (
            str(each.step),
            each.revision,
            "" if each.tokens_seen is None else str(each.tokens_seen),
            "" if each.learning_rate is None else str(each.learning_rate),
            _content(each),
            "" if each.duplicate_of is None else names.get(each.duplicate_of, each.duplicate_of),
            *([each.commit] if each.commit else []),
        )
        for each in suite.checkpoints
    ]


def _table(suite: Suite) -> Table:
    """The table for people. On a narrow terminal cells wrap; nothing is cut."""
    names = _names(suite)
    title = Text(f"{suite.name}: {len(suite.checkpoints)} checkpoints")
    table = Table(title=title, title_justify="left")
    for name in _columns(suite):
        table.add_column(
            name.replace("_", " "), justify="right" if name in _RIGHT else "left", overflow="fold"
        )
    for each in suite.checkpoints:
        table.add_row(
            f"{each.step:,}",
            each.revision,
            "-" if each.tokens_seen is None else f"{each.tokens_seen:,}",
            "-" if each.learning_rate is None else f"{each.learning_rate:.4g}",
            _content(each)[:12] or "-",
            "" if each.duplicate_of is None else names.get(each.duplicate_of, each.duplicate_of),
            *([each.commit[:12]] if each.commit else []),
        )
    return table


def _print_findings(suite: Suite, to: Console) -> None:
    names = _names(suite)
    groups: dict[str, list[str]] = {}
    for checkpoint in suite.checkpoints:
        if checkpoint.duplicate_of is not None:
            groups.setdefault(checkpoint.duplicate_of, []).append(checkpoint.revision)
    for original, copies in groups.items():
        to.print(f"same content: {names.get(original, original)}, {', '.join(copies)}")
    for checkpoint in suite.checkpoints:
        if not checkpoint.content_id:
            to.print(f"no complete weights, or not listed: {checkpoint.revision}")
    for warning in suite.warnings:
        to.print(f"warning: {warning}")
    for name in suite.skipped:
        to.print(f"not a checkpoint by its name: {name}")
    distinct = sum(bool(each.content_id) and each.duplicate_of is None for each in suite.checkpoints)
    to.print(f"{len(suite.checkpoints)} checkpoints, {distinct} distinct")


def _columns(suite: Suite) -> tuple[str, ...]:
    return HUB_COLUMNS if any(each.commit for each in suite.checkpoints) else COLUMNS


def _content(checkpoint: Checkpoint) -> str:
    """Content id as shown: the hub's own hash, or for a folder the id of weights and configuration."""
    return (checkpoint.commit and checkpoint.weights_sha256) or checkpoint.content_id


def _place(name: str) -> str:
    from pipeline.suites import HubSuite, registered_suite

    entry = registered_suite(name)
    if not isinstance(entry, HubSuite):
        return "trained here at first use"
    return f"{entry.repository}: {entry.note}" if entry.note else entry.repository


def _names(suite: Suite) -> dict[str, str]:
    return {checkpoint.key: checkpoint.revision for checkpoint in suite.checkpoints}
