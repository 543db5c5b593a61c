"""``suites``: the known suites, or the checkpoints of one."""

from __future__ import annotations

import click
from rich.table import Table

from jobs.console import console


@click.command()
@click.argument("suite", required=False)
@click.option("--verify", is_flag=True, help="Print the groups of checkpoints with the same content.")
def command(suite: str | None, verify: bool) -> None:
    """List the known suites, or the checkpoints of SUITE in order of their numbers."""
    from jobs.suite import resolve_suite
    from pipeline.suites import known_suites

    if suite is None:
        for name in known_suites():
            click.echo(name)
        return
    found = resolve_suite(suite)
    names = {checkpoint.key: checkpoint.revision for checkpoint in found.checkpoints}
    table = Table(title=f"{found.name}: {len(found.checkpoints)} checkpoints", title_justify="left")
    for head in ("step", "revision", "tokens", "learning rate", "content", "same as"):
        table.add_column(head, justify="right" if head in ("step", "tokens", "learning rate") else "left")
    for checkpoint in found.checkpoints:
        table.add_row(
            f"{checkpoint.step:,}",
            checkpoint.revision,
            "-" if checkpoint.tokens_seen is None else f"{checkpoint.tokens_seen:,}",
            "-" if checkpoint.learning_rate is None else f"{checkpoint.learning_rate:.4g}",
            checkpoint.content_id[:12] or "-",
            ""
            if checkpoint.duplicate_of is None
            else names.get(checkpoint.duplicate_of, checkpoint.duplicate_of),
        )
    if not verify:
        console.print(table)
    groups: dict[str, list[str]] = {}
    for checkpoint in found.checkpoints:
        if checkpoint.duplicate_of is not None:
            groups.setdefault(checkpoint.duplicate_of, []).append(checkpoint.revision)
    for original, copies in groups.items():
        console.print(f"same content: {names.get(original, original)}, {', '.join(copies)}", markup=False)
    for name in found.skipped:
        console.print(f"not a checkpoint by its name: {name}", markup=False)
