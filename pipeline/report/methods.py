"""The chart of what methods repair, and the table of what they could not do."""

from __future__ import annotations

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.method_repair import REMAINING, AffectedMatrices
from pipeline.report.axes import Spec, backdrop, chart, cursor_rule, level_rule
from pipeline.report.curve_charts import variant_lines
from pipeline.report.frame import Frame
from pipeline.report.html_text import esc, plain_table, redact, step

TALLEST = 3.0
"""The axis ends here at the latest: early gaps that are hardly there have ratios of any size."""
NOTE = (
    "Gap of each method over the gap of round-to-nearest on the same grid: 0 = all repaired, 1 = nothing. Bands: 95 %, "
    "paired over the text; not drawn where round-to-nearest has no gap that can be told from 0."
)


def has_repairs(frame: Frame) -> bool:
    """Whether there is anything to draw."""
    return any(frame.finite(f"{one.key}_{REMAINING}") for one in frame.quantized)


def repair_chart(frame: Frame) -> Spec:
    """One line per method with its interval, and one at 1."""
    values = [value for one in frame.quantized for _, value in frame.finite(f"{one.key}_{REMAINING}")]
    top, bottom = min(TALLEST, max([1.1, *values])), max(-0.5, min([0.0, *values]))
    y: Spec = {
        "type": "quantitative",
        "scale": {"domain": [bottom, top], "nice": False},
        "axis": {"title": None, "tickCount": 4, "labelExpr": "format(datum.value, '~%')"},
    }
    layers = [*backdrop(), level_rule(y, 1)]
    for series in frame.quantized:
        layers += variant_lines(series, frame, REMAINING, y)
    return chart([*layers, cursor_rule()], frame, 130)


def problems_table(report: AuditReport) -> str:
    """Table of the problems of calibrated methods; empty if none was measured."""
    if report.calibration is None:
        return ""
    heading = '<h3 id="h-uncalibrated">What calibrated methods could not do</h3>'
    if not report.calibration_problems:
        return f'{heading}<p class="note">Nothing: every matrix was calibrated at every checkpoint.</p>'
    heads = ("Variant", "Why", "Matrices", "Cases", "Rounded to nearest", "Steps", "Such as")
    note = (
        "A case is one matrix at one checkpoint. A matrix that a method cannot work on is rounded to nearest and "
        "counted here; tables/tensors.parquet names each."
    )
    return f'{heading}<p class="note">{note}</p>{plain_table(heads, map(_row, report.calibration_problems))}'


def _row(found: AffectedMatrices) -> list[str]:
    first, last = step(found.first_step), step(found.last_step)
    cells = (
        found.variant,
        found.problem,
        f"{found.matrices:,}",
        f"{found.cases:,}",
        f"{found.rounded:,}",
        first if first == last else f"{first} to {last}",
        ", ".join(found.examples),
    )
    return [esc(redact(cell)) for cell in cells]
