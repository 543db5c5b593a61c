"""Tables, statistics and figures of a fork experiment, and a summary for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from jobs.console import console
from jobs.options import absolute_out
from pipeline.errors import UsageError
from pipeline.shards import FORK, RunFolder


def reduce_and_report(directory: str, *, allow_missing: bool, seed: int) -> None:
    """Reduces the experiment in ``directory``, draws it and prints the comparison."""
    reduce_fork_folder(directory, allow_missing=allow_missing, seed=seed)
    report_fork_folder(directory)


def holds_fork(directory: str) -> bool:
    """Whether ``directory`` holds a fork experiment."""
    return RunFolder(absolute_out(directory), FORK).has_plan()


def holds_audit(directory: str) -> bool:
    """Whether ``directory`` holds an audit."""
    return RunFolder(absolute_out(directory)).has_plan()


def reduce_fork_folder(directory: str, *, allow_missing: bool, seed: int) -> None:
    """Writes tables/fork.parquet and tables/schedules.json and prints the comparison."""
    from pipeline.analysis.fork_reduce import reduce_fork, write_fork_reduction

    folder = RunFolder(absolute_out(directory), FORK)
    reduction = reduce_fork(folder, allow_missing=allow_missing, seed=seed)
    write_fork_reduction(folder, reduction)
    console.print(comparison_table(reduction.report))
    for sentence in reduction.report["sentences"]:
        console.print(sentence, markup=False)
    console.print(f"tables: {folder.tables}", markup=False)


def report_fork_folder(directory: str) -> None:
    """Draws fork.html and figures/fork_*.png from the tables."""
    import json

    import polars as pl

    from pipeline.report.fork import fork_figures, fork_page

    folder = RunFolder(absolute_out(directory), FORK)
    if not folder.schedules_json.is_file():
        raise UsageError(
            f"nothing to report: {folder.schedules_json} is not there; run `int4-collapse reduce {folder}`"
        )
    report = json.loads(folder.schedules_json.read_text())
    table = pl.read_parquet(folder.tables / "fork.parquet")
    folder.write_result(folder.fork_html, fork_page(table, report))
    for name, png in fork_figures(table, report).items():
        folder.write_figure(name, png)
    console.print(f"report: {folder.fork_html}\nfigures: {folder.figures}", markup=False)


def comparison_table(report: dict[str, Any]) -> Table:
    """One row per arm: its last gap, and its difference to the baseline on the live weights."""
    table = Table(title=f"{report['n_runs']} runs from step {report['from_step']:,}", title_justify="left")
    heads = (
        "arm",
        "final gap",
        "final fp32 nll",
        "difference (points)",
        "95% interval",
        "wins",
        "p (Holm)",
        "fp32 price (nats)",
    )
    for head in heads:
        table.add_column(head, justify="left" if head == "arm" else "right")
    compared = {row["arm"]: row for row in report["comparisons"] if row["weights"] == "live"}
    for arm, facts in report["arms"].items():
        ends = (_number(facts["final_gap"], "+.2%"), _number(facts["final_fp32_nll_nats"], ".4f"))
        if arm not in compared:
            table.add_row(arm, *ends, "baseline" if arm == report["baseline"] else "-", *["-"] * 4)
            continue
        row = compared[arm]
        difference = row["difference"]
        interval = (
            "-"
            if difference["lower"] is None
            else f"{difference['lower']:+.2f} to {difference['upper']:+.2f}"
        )
        table.add_row(
            arm, *ends, _number(difference["estimate"], "+.2f"), interval, f"{row['wins']} of {row['pairs']}",
            _number(row["p_holm"], ".3f"), _number(row["fp32_price_nats"]["estimate"], "+.4f"),
        )  # fmt: skip
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else "diverged" if value != value else format(value, form)  # noqa: PLR0124 - NaN
