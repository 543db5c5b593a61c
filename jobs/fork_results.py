"""Tables, statistics and figures of a fork experiment, and a summary for the terminal."""

from __future__ import annotations

import json
import math
from typing import Any

from rich.table import Table

from jobs.console import console
from jobs.results import required_results
from pipeline.errors import UsageError
from pipeline.runs.output import run_folder
from pipeline.shards import FIGURES, FORK, REPORT, SCHEDULES, TABLES

PAGE = "fork.html"


def reduce_and_report(directory: str, *, allow_missing: bool, seed: int) -> None:
    """Reduces the experiment in ``directory``, draws it and prints the comparison."""
    reduce_fork_folder(directory, allow_missing=allow_missing, seed=seed)
    report_fork_folder(directory)
    if holds_audit(directory) and run_folder(directory).has_result(REPORT):
        from jobs.report import run_report

        run_report(directory)  # which has a section for the experiment


def holds_fork(directory: str) -> bool:
    """Whether ``directory`` holds a fork experiment."""
    return run_folder(directory, FORK).has_plan()


def holds_audit(directory: str) -> bool:
    """Whether ``directory`` holds an audit."""
    return run_folder(directory).has_plan()


def reduce_fork_folder(directory: str, *, allow_missing: bool, seed: int) -> None:
    """Writes tables/fork.parquet and tables/schedules.json and prints the comparison."""
    from pipeline.analysis.fork_reduce import reduce_fork, write_fork_reduction

    folder = run_folder(directory, FORK)
    reduction = reduce_fork(folder, allow_missing=allow_missing, seed=seed)
    write_fork_reduction(folder, reduction)
    console.print(comparison_table(reduction.report))
    for sentence in reduction.report["sentences"]:
        console.print(sentence, markup=False)
    console.print(f"tables: {folder.place(TABLES)}", markup=False)


def report_fork_folder(directory: str) -> None:
    """Draws fork.html and figures/fork_*.png from the tables."""
    import polars as pl

    from pipeline.report.fork import fork_figures, fork_page

    folder = run_folder(directory, FORK)
    files = required_results(folder, SCHEDULES, f"{TABLES}/fork.parquet")
    try:
        report, table = json.loads(files[0]), pl.read_parquet(files[1])
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(
            f"the tables in {folder} are damaged ({error}); run `int4-collapse reduce {folder}`"
        ) from error
    refuse_earlier(report, directory)
    folder.write_result(PAGE, fork_page(table, report))
    for name, png in fork_figures(table, report).items():
        folder.write_figure(name, png)
    console.print(f"report: {folder.place(PAGE)}\nfigures: {folder.place(FIGURES)}", markup=False)


def refuse_earlier(report: dict[str, Any], directory: str) -> None:
    """``UsageError`` for a schedules.json without what is drawn of it now."""
    if any("at_end" not in row for row in (*report["comparisons"], *report["averages"])):
        raise UsageError(
            f"the tables in {directory} were made by an earlier version; run `int4-collapse reduce {directory}`"
        )


def comparison_table(report: dict[str, Any]) -> Table:
    """One row per arm: its gap at the end, and on the live weights its differences to the baseline."""
    title = (
        f"{report['n_runs']} runs from step {report['from_step']:,}; differences to {report['baseline']}: gap in "
        "percentage points, losses in nats"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("arm", overflow="fold", min_width=min(16, max(map(len, report["arms"]))))
    for head in ("last gap", "points", "95% interval", "wins", "fp32", "quantized"):
        table.add_column(head, justify="right", no_wrap=True)
    compared = {row["arm"]: row for row in report["comparisons"] if row["weights"] == "live"}
    for arm, facts in report["arms"].items():
        final = _number(facts["final_gap"], "+.2%")
        if arm not in compared:
            table.add_row(arm, final, *["-"] * 5)
            continue
        row = compared[arm]
        low, high = row["difference"]["lower"], row["difference"]["upper"]
        table.add_row(
            arm,
            final,
            _number(row["difference"]["estimate"], "+.2f"),
            "-" if low is None else f"{low:+.2f} to {high:+.2f}",
            f"{row['wins']}/{row['pairs']}",
            _number(row["fp32_price_nats"]["estimate"], "+.4f"),
            _number(row["variant_price_nats"]["estimate"], "+.4f"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return "diverged" if math.isnan(value) else format(value, form)
