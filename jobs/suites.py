"""``suites``: the known suites, or the checkpoints of one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.console import console, errors, tab_separated
from pipeline.base.english import counted
from pipeline.spec import Checkpoint

if TYPE_CHECKING:
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
        click.echo(tab_separated(_columns(found)))
        for each in found.checkpoints:
            click.echo(tab_separated(_row(found, each, for_people=False)))
        _print_findings(found, errors)


def _row(suite: Suite, each: Checkpoint, *, for_people: bool) -> tuple[str, ...]:
    """The cells of COLUMNS for a checkpoint; for programs plain numbers, whole hashes, empty if not known."""
    unknown, count, rate = ("-", ",", ".4g") if for_people else ("", "", "")
    digits = 12 if for_people else None
    return (
        f"{each.step:{count}}",
        each.revision,
        unknown if each.tokens_seen is None else f"{each.tokens_seen:{count}}",
        unknown if each.learning_rate is None else f"{each.learning_rate:{rate}}",
        _content(each)[:digits] or unknown,
        "" if each.duplicate_of is None else suite.names.get(each.duplicate_of, each.duplicate_of),
        *([each.commit[:digits]] if each.commit else []),
    )


def _table(suite: Suite) -> Table:
    """The table for people. On a narrow terminal cells wrap; nothing is cut."""
    title = Text(f"{suite.name}: {counted(len(suite.checkpoints), 'checkpoint')}")
    table = Table(title=title, title_justify="left")
    for name in _columns(suite):
        table.add_column(
            name.replace("_", " "), justify="right" if name in _RIGHT else "left", overflow="fold"
        )
    for each in suite.checkpoints:
        table.add_row(*_row(suite, each, for_people=True))
    return table


def _print_findings(suite: Suite, to: Console) -> None:
    groups: dict[str, list[str]] = {}
    for checkpoint in suite.checkpoints:
        if checkpoint.duplicate_of is not None:
            groups.setdefault(checkpoint.duplicate_of, []).append(checkpoint.revision)
    for original, copies in groups.items():
        to.print(f"same content: {suite.names.get(original, original)}, {', '.join(copies)}")
    for checkpoint in suite.checkpoints:
        if not checkpoint.content_id:
            to.print(f"no complete weights, or not listed: {checkpoint.revision}")
    for warning in suite.warnings:
        to.print(f"warning: {warning}")
    for name in suite.skipped:
        to.print(f"not a checkpoint by its name: {name}")
    distinct = sum(bool(each.content_id) for each in suite.distinct)
    to.print(f"{counted(len(suite.checkpoints), 'checkpoint')}, {distinct} distinct")


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
