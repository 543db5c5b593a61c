"""``compare``: did the gap grow more in one training than in another, in one group of trainings than in another?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from jobs.console import console, errors
from jobs.options import FiniteRange, seed_option
from pipeline.analysis.statistics.curves import Curve
from pipeline.base.errors import UsageError
from pipeline.base.files import make_folder, write_atomically
from pipeline.base.typed_json import to_json
from pipeline.runs.folder import RunFolder
from pipeline.runs.output import absolute_out, run_folder
from pipeline.spec import variant_label

if TYPE_CHECKING:
    from pipeline.analysis.statistics.intervals import Bounded
    from pipeline.analysis.trajectory.compared_runs import RunComparison, RunFactors, TrainingGrowth
    from pipeline.analysis.trajectory.growth import Ratio, Window
    from pipeline.analysis.trajectory.trainings import GroupRatio

ALL = "all"
NUMBERS, FIGURE, PAGE = "comparison.json", "comparison.png", "comparison.html"


@click.command()
@click.argument("trainings", metavar="DIR...", nargs=-1)
@click.option("--before", required=True, metavar="FIRST:LAST", help="Early window, in steps.")
@click.option("--end", required=True, metavar="FIRST:LAST", help="Late window, in steps.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME=DIR,DIR,...",
    help="Trainings of one kind, repeatable: groups are compared with the first, trainings as units.",
)
@click.option(
    "--stratum",
    "strata",
    multiple=True,
    metavar="NAME=DIR,DIR,...",
    help="Trainings that the exact test permutes only among themselves, such as those of one seed; repeatable.",
)
@click.option(
    "--threshold",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Also report the power of the rule that a ratio's whole interval lies above this number.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    default=("int4",),
    show_default=True,
    help="Column prefix of a variant, repeatable; all = every one that was measured.",
)
@click.option("--out", metavar="FOLDER", help=f"Also write FOLDER/{NUMBERS} and FOLDER/{FIGURE}.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per training or group, variant and line."
)
@seed_option
def command(
    trainings: tuple[str, ...],
    *,
    before: str,
    end: str,
    groups: tuple[str, ...],
    strata: tuple[str, ...],
    threshold: float,
    variants: tuple[str, ...],
    out: str | None,
    as_json: bool,
    seed: int,
) -> None:
    """Compare the growth of the gap between two windows of steps in reduced audits, with 95 % intervals.

    DIR is the folder of an audit, or a table as `phases` reads it. All are compared with the first; audits must
    share their evaluation tokens. These intervals count checkpoints and text, and hold for these trainings only.
    With --group every training is one observation, and the interval says what other trainings would give. The
    figure shows the gap of int4, or else of the first variant; trainings whose names differ only in a final number,
    such as seeds, share a colour.

    Audits with --mechanism are compared factor by factor too: error size, sensitivity and alignment, side by side, and
    with --out on a page.
    """
    from pipeline.analysis.trajectory.compared_runs import TrainingGroups, compare_runs
    from pipeline.analysis.trajectory.growth import parse_window
    from pipeline.analysis.trajectory.reduction import read_curve, read_mechanism, read_table

    windows = parse_window(before), parse_window(end)
    if windows[0].last >= windows[1].first:
        # a shared checkpoint would be compared with itself, and the factors' intervals take windows for independent
        raise UsageError(
            f"--before {before} --end {end}: wanted an early window and one that begins after its last step, "
            "so that no checkpoint is in both"
        )
    if strata and not groups:
        raise UsageError(f"--stratum {strata[0]} without --group: it is for the exact test between groups")
    target = None if out is None else absolute_out(out)
    kinds = TrainingGroups(_named(groups, "--group"), _named(strata, "--stratum"))
    names = (*trainings, *(name for name in dict.fromkeys(kinds.names()) if name not in trainings))
    if not names:
        raise UsageError("nothing to compare: wanted DIR... or --group NAME=DIR,DIR")
    folders = _folders(names)
    curves = [read_curve(folders[name], name=name) if name in folders else read_table(name) for name in names]
    controls = {name: read_mechanism(folder) for name, folder in folders.items()}
    if ALL in variants:
        variants = tuple(curves[0].variants)
        if not variants:
            raise UsageError(f"{names[0]}: only fp32 was measured, there is no gap to compare")
    named = list(zip(names, curves, strict=True))
    found = compare_runs(named, controls, variants, windows, kinds, threshold=threshold, seed=seed)
    if as_json:
        for each in (*found.found, *found.groups):
            click.echo(json.dumps(to_json(each)))
    else:
        _print(found, windows, several=len(variants) > 1)
    if target is not None:
        if factors := found.factors():
            _write_page(target, factors)
        numbers = {"before": before, "end": end, "threshold": threshold, **to_json(found)}
        shown = "int4" if "int4" in variants else variants[0]
        _write(target, numbers, curves, shown, windows)


def _named(texts: Iterable[str], option: str) -> dict[str, tuple[str, ...]]:
    """Parse each ``NAME=DIR,DIR``: name -> list of folders."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        members = tuple(part.strip() for part in rest.split(",") if part.strip())
        if not (name and equals and members):
            raise UsageError(
                f"{option} {text}: wanted NAME=DIR,DIR,..., such as constant=outputs/a,outputs/b"
            )
        if name in found:
            raise UsageError(f"{option} {name} was given twice: wanted all its trainings in one list")
        found[name] = members
    return found


def _folders(names: Sequence[str]) -> dict[str, RunFolder]:
    """The trainings that are folders of audits. Raises UsageError if they were measured on different tokens."""
    from pipeline.runs.table_files import READERS

    folders = {name: run_folder(name) for name in names if PurePosixPath(name).suffix not in READERS}
    tokens = {name: folder.read_plan().config["tokens_sha256"] for name, folder in folders.items()}
    for name, own in tokens.items():
        first, wanted = next(iter(tokens.items()))
        if own != wanted:
            raise UsageError(
                f"{name} was measured on other tokens than {first}: audit both with the same --corpus and shape"
            )
    return folders


def _print(found: RunComparison, windows: tuple[Window, Window], *, several: bool) -> None:
    from pipeline.analysis.trajectory.mechanism.mechanism_words import run_sentence

    for each in found.found:
        _print_growth(each, windows, found.found[0].folder, several=several)
    for ratio in found.groups:
        _print_ratio(ratio.found, ratio.variant if several else "")
    for factors in found.factors():
        console.print(f"{factors.run} {variant_label(factors.variant)}: {run_sentence(factors)}")


def _print_growth(each: TrainingGrowth, windows: tuple[Window, Window], first: str, *, several: bool) -> None:
    growth = each.found
    console.print(f"{each.folder}  {variant_label(each.variant)}" if several else each.folder, style="bold")
    for window, gap in zip(windows, (growth.before, growth.end), strict=True):
        console.print(f"  gap at {window}  {gap.estimate:.2%} [{gap.lower:.2%}, {gap.upper:.2%}]")
    if growth.growth is None:
        console.print("  no growth: the early gap cannot be distinguished from 0")
    else:
        console.print(f"  growth  {_interval(growth.growth)}, over {growth.intervals}")
    if growth.against is not None:
        power = growth.against.power
        console.print(f"  over the growth of {first}  {_interval(growth.against)}")
        console.print(
            f"  an interval above {power.threshold:g} would be seen four times in five at a ratio of "
            f"{power.smallest_ratio:.2f}"
        )


def _print_ratio(ratio: GroupRatio, variant: str) -> None:
    console.print(f"{ratio.group} over {ratio.against} {variant}".rstrip(), style="bold")
    units = f"{ratio.trainings} against {ratio.trainings_against} trainings"
    if ratio.lower is None:
        console.print(f"  ratio of growths  {ratio.ratio:.3f}, no interval: {units}")
    else:
        console.print(
            f"  ratio of growths  {ratio.ratio:.3f} [{ratio.lower:.3f}, {ratio.upper:.3f}], over {units} "
            f"(Welch, p = {ratio.p_value:.2g})"
        )
    if ratio.permutation_p is not None and ratio.permutation_p_one_sided is not None:
        one_sided = round(ratio.permutation_p_one_sided * ratio.dealings)
        console.print(
            f"  exact permutation  p = {ratio.permutation_p:.3g}, one-sided {one_sided}/{ratio.dealings}"
        )
    if ratio.power is not None:
        console.print(
            f"  an interval above {ratio.power.threshold:g} would be seen four times in five at a ratio of "
            f"{ratio.power.smallest_ratio:.2f}"
        )


def _interval(number: Bounded | Ratio) -> str:
    return f"{number.estimate:.3f} [{number.lower:.3f}, {number.upper:.3f}]"


def _write_page(folder: Path, factors: Sequence[RunFactors]) -> None:
    from pipeline.report.comparison_page import comparison_page

    make_folder(folder)
    write_atomically(folder / PAGE, comparison_page(factors).encode())
    errors.print(f"wrote {folder / PAGE}")


def _write(
    folder: Path, numbers: dict[str, Any], curves: list[Curve], variant: str, windows: tuple[Window, Window]
) -> None:
    from pipeline.report.comparison import comparison_png

    make_folder(folder)
    write_atomically(folder / NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
    spans = [(window.first, window.last) for window in windows]
    write_atomically(folder / FIGURE, comparison_png(curves, variant, spans))
    errors.print(f"wrote {folder / NUMBERS} and {folder / FIGURE}")
