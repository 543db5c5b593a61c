"""Figures and the HTML report of one audited trajectory, from tables only.

``build_report`` and ``build_figures`` take the results of the reduction (``tables/trajectory.parquet``,
``tables/tensors.parquet``, ``report.json``) and return text and bytes; the caller writes them. A part of the report
whose columns or fields are missing is left out.
"""

from __future__ import annotations

import polars as pl

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.base.errors import UsageError
from pipeline.report.audit_page import page_html
from pipeline.report.figures import draw_figures
from pipeline.report.fork.fork_page import fork_section, fork_style
from pipeline.report.frame import Frame, make_frame
from pipeline.report.heatmap import make_heatmap
from pipeline.report.mechanism_charts import with_factors

__all__ = ["build_figures", "build_report"]


def build_report(
    trajectory: pl.DataFrame,
    tensors: pl.DataFrame,
    report: AuditReport,
    fork: tuple[pl.DataFrame, ForkReport] | None = None,
) -> str:
    """The report as one self-contained HTML document (about 1.1 MB) that opens without a network.

    trajectory: one row per step, columns as the reduction writes them. tensors: one row per step, variant and
    quantized tensor (``step, variant, name, relative_error``); may be empty. report: of the same reduction; credentials
    in it are hidden. fork: table and report of an experiment in the same folder.
    Raises ``UsageError`` for a trajectory without rows or without a ``step`` column.
    """
    frame = _frame(trajectory, report)
    heat = make_heatmap(tensors, frame)
    if fork is None:
        return page_html(frame, heat, report)
    return page_html(frame, heat, report, fork=fork_section(*fork), fork_style=fork_style())


def build_figures(trajectory: pl.DataFrame, tensors: pl.DataFrame, report: AuditReport) -> dict[str, bytes]:
    """The same charts as PNG (light, 2x): file name -> bytes. Raises as ``build_report``."""
    frame = _frame(trajectory, report)
    return draw_figures(frame, make_heatmap(tensors, frame), report)


def _frame(trajectory: pl.DataFrame, report: AuditReport) -> Frame:
    if "step" not in trajectory.columns or trajectory.is_empty():
        raise UsageError(
            f"a trajectory of {trajectory.height} rows and columns {', '.join(trajectory.columns) or 'none'}"
            ": wanted at least one row and a column 'step'"
        )
    frame = make_frame(trajectory, report)
    return frame if frame.mechanism is None else with_factors(frame, frame.mechanism)
