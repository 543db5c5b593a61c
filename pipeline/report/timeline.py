"""The strip above the curves: every dated event with its interval, on the same step axis.

It shows what the onset follows: an event whose whisker overlaps the onset's cannot be distinguished from it; an
event left of both came earlier.
"""

from __future__ import annotations

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.report.axes import Spec, X, backdrop, chart, cursor_rule
from pipeline.report.event_marks import DatedEvent, candidates, label_of, milestones
from pipeline.report.frame import Frame

ROW = 26
"""Pixels per event: its name above, its mark below."""
INKS = {"onset": "$onset", "convergence": "$converged", "fp32_plateau": "$converged"}


def timeline_data(report: AuditReport) -> list[Spec]:
    """Data set ``events``: one entry per row of the strip, in step order, the onset last."""
    dated = [
        DatedEvent(each.event, label_of(each.event), each.step, each.step_ci)
        for each in candidates(report.summary)
        if each.step is not None
    ]
    known, stones = {event.step for event in dated}, milestones(report)
    dated += [each for each in stones if each.name == "convergence" and each.step not in known]
    rows = sorted(dated, key=lambda event: event.step) + [each for each in stones if each.name == "onset"]
    data = []
    for place, event in enumerate(rows):
        lo, hi = event.ci or (event.step, event.step)
        ink, y = INKS.get(event.name, "$ink"), ROW * place + ROW / 2
        data.append({"label": event.label, "step": event.step, "lo": lo, "hi": hi, "ink": ink, "y": y})
    return data


def timeline(frame: Frame, n_rows: int) -> Spec:
    """The chart over data set ``events``."""
    height = ROW * n_rows
    y = {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": [0, height], "reverse": True, "nice": False},
        "axis": {"title": None, "labels": False, "grid": False},
    }
    ink = {"field": "ink", "type": "nominal", "scale": None, "legend": None}
    whisker = {
        "data": {"name": "events"},
        "mark": {"type": "rule", "strokeWidth": 2, "clip": True},
        "encoding": {"x": {**X, "field": "lo"}, "x2": {"field": "hi"}, "y": y, "stroke": ink},
    }
    dot = {
        "data": {"name": "events"},
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1, "clip": True},
        "encoding": {"x": X, "y": y, "fill": ink},
    }
    names = [
        {
            "data": {"name": "events"},
            "transform": [{"calculate": "$place", "as": "place"}, {"filter": f"datum.place {test} 0.5"}],
            "mark": {"type": "text", "align": side, "dx": 9 if side == "left" else -9, "baseline": "middle",
                     "clip": True},
            "encoding": {"x": {**X, "field": edge}, "y": y, "text": {"field": "label"}, "fill": ink},
        }
        for side, edge, test in (("left", "hi", "<="), ("right", "lo", ">"))
    ]  # fmt: skip
    return chart([*backdrop(strips=False), whisker, dot, *names, cursor_rule()], frame, height)
