"""Figures and the HTML report of one audited trajectory, from tables only.

``build_report`` and ``build_figures`` take the results of the reduction (``tables/trajectory.parquet``,
``tables/tensors.parquet``, ``report.json``) and return text and bytes; the caller writes them. A part of the report
whose columns or keys are missing is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import polars as pl

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism
from pipeline.base.errors import UsageError
from pipeline.report.audit_page import Extra, page_html
from pipeline.report.figures import draw_figures
from pipeline.report.fork import fork_section, fork_style
from pipeline.report.frame import Frame, make_frame
from pipeline.report.heatmap import make_heatmap
from pipeline.report.mechanism_charts import with_factors

__all__ = ["build_figures", "build_report"]


def build_report(
    trajectory: pl.DataFrame,
    tensors: pl.DataFrame,
    report: Mapping[str, Any],
    provenance: Mapping[str, Any],
    fork: tuple[pl.DataFrame, ForkReport] | None = None,
) -> str:
    """The report as one self-contained HTML document (about 1.1 MB) that opens without a network.

    trajectory: one row per step, columns as the reduction writes them. tensors: one row per step, variant and
    quantized tensor (``step, variant, name, relative_error``); may be empty. report: ``report.json``.
    provenance: versions, fingerprint, settings, commands, as nested JSON values; credentials in it are
    hidden. fork: ``tables/fork.parquet`` and ``tables/schedules.json`` of an experiment in the same folder.
    Raises ``UsageError`` for a trajectory without rows or without a ``step`` column.
    """
    frame = _frame(trajectory, report)
    extra = Extra(fork_section(*fork), fork_style()) if fork else Extra()
    return page_html(frame, make_heatmap(tensors, frame), report, provenance, extra)


def build_figures(
    trajectory: pl.DataFrame, tensors: pl.DataFrame, report: Mapping[str, Any]
) -> dict[str, bytes]:
    """The same charts as PNG (light, 2x): file name -> bytes. Raises as ``build_report``."""
    frame = _frame(trajectory, report)
    return draw_figures(frame, make_heatmap(tensors, frame), report)


def _frame(trajectory: pl.DataFrame, report: Mapping[str, Any]) -> Frame:
    if "step" not in trajectory.columns or trajectory.is_empty():
        raise UsageError(
            f"a trajectory of {trajectory.height} rows and columns {', '.join(trajectory.columns) or 'none'}"
            ": wanted at least one row and a column 'step'"
        )
    frame = make_frame(trajectory, report)
    if report.get("mechanism") is None:
        return frame
    try:
        mechanism = Mechanism.from_json(report["mechanism"])
    except ValueError as error:
        raise UsageError(
            f"report.json is damaged or of another version ({error}): reduce the run again"
        ) from error
    return with_factors(dataclasses.replace(frame, mechanism=mechanism), mechanism)
