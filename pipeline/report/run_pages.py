"""Pages and figures of an output folder, from the tables of its reductions."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.base.errors import UsageError
from pipeline.report import build_figures, build_report
from pipeline.report.fork.fork_page import fork_figures, fork_page
from pipeline.runs.folder import RunFolder
from pipeline.runs.result_files import FIGURES, REPORT, SCHEDULES, TABLES

AUDIT_PAGE, FORK_PAGE = "report.html", "fork.html"
FORK_TABLE = f"{TABLES}/fork.parquet"

_DAMAGED = (ValueError, OSError, pl.exceptions.PolarsError)


def report_audit(folder: RunFolder) -> list[str]:
    """Draw report.html and figures/*.png, with the fork experiment in the same folder; return lines with their paths.

    Raises UsageError if a table is missing or damaged.
    """
    wanted = (REPORT, f"{TABLES}/trajectory.parquet", f"{TABLES}/tensors.parquet")
    files = required_results(folder, *wanted)
    report = folder.results.read_as(AuditReport, REPORT)
    assert report is not None  # it is required
    fork = None
    schedules = folder.results.read_as(ForkReport, SCHEDULES)
    try:
        trajectory, tensors = pl.read_parquet(files[1]), pl.read_parquet(files[2])
        if schedules is not None:
            (table,) = required_results(folder, FORK_TABLE)
            fork = (pl.read_parquet(table), schedules)
    except _DAMAGED as error:
        raise _damaged(folder, error) from error
    folder.results.write(AUDIT_PAGE, build_report(trajectory, tensors, report, fork))
    return _written(folder, AUDIT_PAGE, build_figures(trajectory, tensors, report))


def report_fork(folder: RunFolder) -> list[str]:
    """Draw fork.html and figures/fork_*.png; see :func:`report_audit`."""
    _, data = required_results(folder, SCHEDULES, FORK_TABLE)
    report = folder.results.read_as(ForkReport, SCHEDULES)
    assert report is not None  # it is required
    try:
        table = pl.read_parquet(data)
    except _DAMAGED as error:
        raise _damaged(folder, error) from error
    folder.results.write(FORK_PAGE, fork_page(table, report))
    return _written(folder, FORK_PAGE, fork_figures(table, report))


def required_results(folder: RunFolder, *names: str) -> list[bytes]:
    """The contents of ``names`` in ``folder``; raises UsageError, which names the missing ones."""
    files = {name: folder.results.read(name) for name in names}
    missing = [folder.place(name) for name, data in files.items() if data is None]
    if missing:
        raise UsageError(
            f"nothing to report: {', '.join(missing)} missing; run `int4-collapse reduce {folder}`"
        )
    return [data for data in files.values() if data is not None]


def _written(folder: RunFolder, page: str, figures: Mapping[str, bytes]) -> list[str]:
    for name, png in figures.items():
        folder.results.write_figure(name, png)
    return [f"report: {folder.place(page)}", f"figures: {folder.place(FIGURES)}"]


def _damaged(folder: RunFolder, error: Exception) -> UsageError:
    return UsageError(f"the tables in {folder} are damaged ({error}); run `int4-collapse reduce {folder}`")
