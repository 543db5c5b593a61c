"""``compare``: did the gap grow more in one audit than in another, or under one variant than under another?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.console import console, errors
from jobs.options import seed_option
from pipeline.errors import UsageError
from pipeline.files import make_folder, write_atomically
from pipeline.runs.output import absolute_out, run_folder

if TYPE_CHECKING:
    from pipeline.analysis.curves import Curve
    from pipeline.analysis.growth import Growth, Window

ALL = "all"
NUMBERS, FIGURE = "comparison.json", "comparison.png"


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option("--before", required=True, metavar="FIRST:LAST", help="Early window, in steps.")
@click.option("--end", required=True, metavar="FIRST:LAST", help="Late window, in steps.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    default=("int4",),
    show_default=True,
    help="Column prefix of a variant, repeatable; all = every one that was measured.",
)
@click.option("--out", metavar="FOLDER", help=f"Also write FOLDER/{NUMBERS} and FOLDER/{FIGURE}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per audit, variant and line.")
@seed_option
def command(
    folders: tuple[str, ...],
    *,
    before: str,
    end: str,
    variants: tuple[str, ...],
    out: str | None,
    as_json: bool,
    seed: int,
) -> None:
    """Compare the growth of the gap between two windows of steps in reduced audits, with 95 % intervals.

    All are compared with the first. They must be audits of the same evaluation tokens. The figure shows the gap of
    int4, or else of the first variant; audits whose names differ only in a last number, as seeds do, share a colour.
    """
    from pipeline.analysis.growth import compare_growth, parse_window

    windows = parse_window(before), parse_window(end)
    target = None if out is None else absolute_out(out)
    curves = _read(folders)
    if ALL in variants:
        variants = tuple(curves[0].variants)
        if not variants:
            raise UsageError(f"{folders[0]}: only fp32 was measured, there is no gap to compare")
    found: list[tuple[str, str, Growth]] = []
    for variant in variants:
        grown = compare_growth(curves, variant, *windows, seed=seed)
        found += [(folder, variant, growth) for folder, growth in zip(folders, grown, strict=True)]
    objects = [
        {"folder": folder, "variant": variant, **dataclasses.asdict(growth)}
        for folder, variant, growth in found
    ]
    if as_json:
        for each in objects:
            click.echo(json.dumps(each))
    else:
        _print(found, windows, several=len(variants) > 1)
    if target is not None:
        numbers = {"before": before, "end": end, "seed": seed, "found": objects}
        _write(target, numbers, curves, "int4" if "int4" in variants else variants[0], windows)


def _read(folders: tuple[str, ...]) -> list[Curve]:
    """The audits; ``UsageError`` where one was measured on other tokens than the first."""
    from pipeline.analysis.reduce import read_curve

    runs = [run_folder(folder) for folder in folders]
    tokens = [run.read_plan().config["tokens_sha256"] for run in runs]
    for folder, own in zip(folders, tokens, strict=True):
        if own != tokens[0]:
            raise UsageError(
                f"{folder} was measured on other tokens than {folders[0]}: audit both with the same --corpus and shape"
            )
    return [read_curve(run, name=folder) for run, folder in zip(runs, folders, strict=True)]


def _print(found: list[tuple[str, str, Growth]], windows: tuple[Window, Window], *, several: bool) -> None:
    for folder, variant, growth in found:
        console.print(f"{folder}  {variant}" if several else folder, style="bold", markup=False)
        for window, gap in zip(windows, (growth.before, growth.end), strict=True):
            console.print(
                f"  gap at {window}  {gap.estimate:.2%} [{gap.lower:.2%}, {gap.upper:.2%}]", markup=False
            )
        if growth.growth is None:
            console.print("  no growth: the gap before cannot be told from 0", markup=False)
        for name, times in (("growth", growth.growth), (f"over the growth of {found[0][0]}", growth.against)):
            if times is not None:
                console.print(
                    f"  {name}  {times.estimate:.3f} [{times.lower:.3f}, {times.upper:.3f}]", markup=False
                )


def _write(
    folder: Path,
    numbers: dict[str, Any],
    curves: list[Curve],
    variant: str,
    windows: tuple[Window, Window],
) -> None:
    from pipeline.report.comparison import comparison_png

    make_folder(folder)
    write_atomically(folder / NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
    spans = [(window.first, window.last) for window in windows]
    write_atomically(folder / FIGURE, comparison_png(curves, variant, spans))
    errors.print(f"wrote {folder / NUMBERS} and {folder / FIGURE}", markup=False)
