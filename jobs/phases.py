"""``phases``: convergence and onset of any table of losses."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import click

from jobs.console import console
from jobs.options import seed_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.analysis.curves import Curve


@click.command()
@click.argument("tables", metavar="TABLE...", nargs=-1, required=True)
@click.option("--variant", default="int4", show_default=True, help="Column prefix of the variant to analyse.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per table and line, keys as in report.json."
)
@seed_option
def command(tables: tuple[str, ...], variant: str, as_json: bool, seed: int) -> None:
    """Find convergence and onset in csv, parquet or arrow tables.

    A table has the columns step, fp32_nll_nats, <variant>_nll_nats and, optionally, learning_rate.
    """
    from pipeline.analysis.summary import summarise

    curves = [(table, read_table(table)) for table in tables]
    for table, curve in curves:
        summary = summarise(curve, variant=variant, seed=seed).to_json()
        if as_json:
            click.echo(json.dumps({"table": table, **summary}, allow_nan=False))
            continue
        console.print(table, style="bold", markup=False)
        for sentence in summary["verdict"]:  # type: ignore[attr-defined]
            console.print(f"  {sentence}", markup=False)


def read_table(table: str) -> Curve:
    """The losses in a csv, parquet or arrow table; UsageError for what cannot be read as one."""
    import polars as pl

    from pipeline.analysis.curves import Curve
    from pipeline.errors import UsageError
    from pipeline.store import open_store

    readers: dict[str, Callable[[bytes], pl.DataFrame]] = {
        ".csv": pl.read_csv,
        ".parquet": pl.read_parquet,
        ".arrow": pl.read_ipc,
        ".feather": pl.read_ipc,
    }
    suffix = PurePosixPath(table).suffix
    if suffix not in readers:
        raise UsageError(f"{table}: wanted a table ending in {', '.join(readers)}")
    folder, _, name = table.rpartition("/")
    data = open_store(folder or ("/" if table.startswith("/") else ".")).read(name)
    if data is None:
        raise UsageError(f"{table} does not exist: wanted a table ending in {', '.join(readers)}")
    try:
        frame = readers[suffix](data)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{table} cannot be read as {suffix}: {str(error).splitlines()[0]}") from error
    return Curve.from_frame(frame, name=table)
