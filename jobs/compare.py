"""``compare``: did the gap grow more in one audit than in another?"""

from __future__ import annotations

import dataclasses
import json

import click

from jobs.console import console
from jobs.options import run_folder, seed_option
from pipeline.errors import UsageError


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--before", required=True, metavar="FIRST:LAST", help="Early window, in steps.")
@click.option("--end", required=True, metavar="FIRST:LAST", help="Late window, in steps.")
@click.option("--variant", default="int4", show_default=True, help="Column prefix of the variant.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per audit and line.")
@seed_option
def command(
    folders: tuple[str, ...], *, before: str, end: str, variant: str, as_json: bool, seed: int
) -> None:
    """Compare the growth of the gap between two windows of steps in reduced audits, with 95 % intervals.

    All are compared with the first. They must be audits of the same evaluation tokens.
    """
    from pipeline.analysis.growth import Bounded, compare_growth, parse_window
    from pipeline.analysis.reduce import read_curve

    windows = parse_window(before), parse_window(end)
    runs = [run_folder(folder) for folder in folders]
    tokens = [run.read_plan().config["tokens_sha256"] for run in runs]
    for folder, own in zip(folders, tokens, strict=True):
        if own != tokens[0]:
            raise UsageError(
                f"{folder} was measured on other tokens than {folders[0]}: audit both with the same --corpus and shape"
            )
    curves = [read_curve(run, name=folder) for run, folder in zip(runs, folders, strict=True)]
    found = compare_growth(curves, variant, *windows, seed=seed)

    def percent(value: Bounded) -> str:
        return f"{value.estimate:.2%} [{value.lower:.2%}, {value.upper:.2%}]"

    def times(value: Bounded) -> str:
        return f"{value.estimate:.3f} [{value.lower:.3f}, {value.upper:.3f}]"

    for folder, growth in zip(folders, found, strict=True):
        if as_json:
            click.echo(json.dumps({"folder": folder, "variant": variant, **dataclasses.asdict(growth)}))
            continue
        console.print(folder, style="bold", markup=False)
        console.print(f"  gap at {windows[0]}  {percent(growth.before)}", markup=False)
        console.print(f"  gap at {windows[1]}  {percent(growth.end)}", markup=False)
        console.print(f"  growth  {times(growth.growth)}", markup=False)
        if growth.against is not None:
            console.print(f"  over the growth of {folders[0]}  {times(growth.against)}", markup=False)
