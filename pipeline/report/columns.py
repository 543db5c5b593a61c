"""The numbers that charts draw, rounded so that they fit into one page.

Rounding (six significant digits) happens here only; the tables keep every digit.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline.analysis.trajectory.method_repair import REMAINING
from pipeline.measurements import choices, unvaried_columns
from pipeline.report import mechanism_charts
from pipeline.report.frame import Frame

RUN_COLUMNS = ("tokens_seen", "learning_rate", "phase", "kappa", "kappa_lower", "kappa_upper")


def chart_columns(frame: Frame) -> dict[str, list[Any]]:
    """Column name -> values by row; with ``prev`` and ``next`` step, and ``<variant>_lone`` flags."""
    of_run = [*RUN_COLUMNS, *(column.name for column in unvaried_columns())]
    of_run += [*mechanism_charts.COLUMNS, mechanism_charts.PARABOLA]
    wanted = [name for name in of_run if frame.has(name)]
    for series in frame.series:
        remaining = (REMAINING, f"{REMAINING}_lo", f"{REMAINING}_hi")
        names = ("perplexity", "gap", "gap_lo", "gap_hi", *remaining, *(column.name for column in choices()))
        wanted += [f"{series.key}_{name}" for name in names if frame.has(f"{series.key}_{name}")]
    steps = frame.rows["step"].to_list()
    columns: dict[str, list[Any]] = {
        "step": steps,
        "prev": [steps[0], *steps[:-1]],
        "next": [*steps[1:], steps[-1]],
    }
    for name in wanted:
        columns[name] = [drawable(value) for value in frame.rows[name].to_list()]
    for series in frame.series:
        columns[f"{series.key}_lone"] = _lone(columns.get(f"{series.key}_perplexity", []))
    return columns


def chart_rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The same as one mapping per row, for Vega."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def diverged_points(frame: Frame) -> list[dict[str, Any]]:
    """One entry per variant and step with a measured value that is not finite."""
    return [
        {"key": series.key, "step": step, "prev": step, "next": step}
        for series in frame.series
        for step in frame.diverged(f"{series.key}_nll_nats")
    ]


def drawable(value: Any) -> Any:
    """Round to six significant digits; None for values without a place on an axis.

    >>> drawable(0.123456789), drawable(float("nan")), drawable(None)
    (0.123457, None, None)
    """
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _lone(values: list[Any]) -> list[bool]:
    padded = [None, *values, None]
    return [
        here is not None and before is None and after is None
        for before, here, after in zip(padded, padded[1:], padded[2:], strict=False)
    ]
