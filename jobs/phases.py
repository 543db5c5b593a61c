"""``phases``: convergence and onset of any table of losses."""

from __future__ import annotations

import json

import click

from jobs.console import console
from jobs.options import seed_option


@click.command()
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@click.option("--variant", default="int4", show_default=True, help="Column prefix of the variant to analyse.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per table and line, keys as in report.json."
)
@seed_option
def command(tables: tuple[str, ...], variant: str, as_json: bool, seed: int) -> None:
    """Find convergence and onset in csv, parquet or arrow tables.

    A table has the columns step, fp32_nll_nats, <variant>_nll_nats and, optionally, learning_rate, duplicate_of (not
    empty: the weights of an earlier row) and lists of losses per evaluation batch, fp32_batch_nll_nats and
    <variant>_batch_nll_nats, with which the intervals count the evaluation text too.
    """
    from pipeline.analysis.table_files import read_table
    from pipeline.analysis.trajectory.summary import summarise

    curves = [(table, read_table(table)) for table in tables]
    for table, curve in curves:
        summary = summarise(curve, variant=variant, seed=seed).to_json()
        if as_json:
            click.echo(json.dumps({"table": table, **summary}, allow_nan=False))
            continue
        console.print(table, style="bold", markup=False)
        for sentence in summary["verdict"]:  # type: ignore[attr-defined]
            console.print(f"  {sentence}", markup=False)
