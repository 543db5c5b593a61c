"""Parts that all charts share: the step axis, the phases behind the curves, the marks and the cursor.

Every chart is a single view whose step axis runs from signal ``x0`` to signal ``x1`` and whose ``at``
signal is a step or null. The page sets all three in all charts at once, which links zoom, pan and hover while each
chart keeps its own width.
"""

from __future__ import annotations

import itertools
from typing import Any

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.report.event_marks import milestones
from pipeline.report.frame import Frame

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
VL_VERSION = "6.4"
PHASES = {1: "1 learning", 2: "2 plateau", 3: "3 after onset"}
PLACE = {"calculate": "$place", "as": "place"}
X = {"field": "step", "type": "quantitative", "scale": "$xscale", "axis": "$xaxis"}


def step_tokens(kind: str, frame: Frame) -> Spec:
    """Tokens of the step axis. kind: ``linear``, or ``symlog`` to spread the early steps."""
    scale: Spec = {"type": kind, "domain": [{"expr": "x0"}, {"expr": "x1"}], "nice": False, "zero": False}
    axis: Spec = {
        "title": None,
        "labelExpr": "format(datum.value, '~s')",
        "tickCount": {"expr": "max(3, floor(width / 90))"},
    }
    if kind == "symlog":
        scale["constant"] = 1
        # d3 has no ticks for this scale and would place them as on a linear one.
        decades = [10**power for power in range(len(str(max(frame.last_step, 1))) + 1)]
        del axis["tickCount"]
        axis["values"] = [0, *(factor * decade for decade in decades for factor in (1, 2, 5))]
        axis["labelOverlap"] = "greedy"
        axis["labelSeparation"] = 6
    return {
        "$xscale": scale,
        "$xaxis": axis,
        "$xaxis_bare": {**axis, "labels": False},
        "$place": _place("datum.step", kind),
        "$wide": f"({_place('min(datum.to, x1)', kind)} - {_place('datum.step', kind)}) * width",
    }


def _place(value: str, kind: str) -> str:
    """Expression of the position of ``value`` in view, from 0 = left edge to 1 = right edge."""
    if kind == "linear":
        return f"({value} - x0) / (x1 - x0)"
    return f"(log(1 + {value}) - log(1 + x0)) / (log(1 + x1) - log(1 + x0))"


def step_params(frame: Frame) -> list[Spec]:
    """The signals, with their values for the whole run."""
    last = frame.last_step if frame.last_step > frame.first_step else frame.first_step + 1
    return [
        {"name": "x0", "value": frame.first_step},
        {"name": "x1", "value": last},
        {"name": "at", "value": None},
    ]


def shared_data(report: AuditReport) -> Spec:
    """The small data sets behind every chart: ``phases`` and ``marks`` (colours as tokens)."""
    phases = [
        {
            "from": each.first_step,
            "to": each.last_step,
            "fill": f"$phase{each.phase}",
            "name": PHASES[each.phase],
        }
        for each in report.summary.phases
        if each.phase in PHASES
    ]
    # Each phase is drawn up to the start of the next, so that the shading has no gaps.
    for one, after in itertools.pairwise(phases):
        one["to"] = after["from"]
    marks: list[Spec] = []
    for event in milestones(report):
        lo, hi = event.ci or (event.step, event.step)
        ink = "$converged" if event.name == "convergence" else "$onset"
        marks.append(
            {"kind": event.name, "label": event.label, "step": event.step, "lo": lo, "hi": hi, "ink": ink}
        )
    ordered = sorted(marks, key=lambda mark: mark["step"])
    for row, mark in enumerate(ordered):
        # Of two labels the earlier is left of its line and the later lower, so that they never overlap.
        mark |= {"row": row, "turn": 0.3 if len(ordered) == 2 and row == 0 else 0.75}
    return {"phases": phases, "marks": marks}


def backdrop(*, labels: bool = False, strips: bool = True) -> list[Spec]:
    """Layers below the curves: phase shading, convergence and onset as lines, their intervals as strips."""

    def literal(field: str) -> Spec:
        return {"field": field, "type": "nominal", "scale": None, "legend": None}

    def span(lo: str, hi: str) -> Spec:
        return {"x": {**X, "field": lo}, "x2": {"field": hi}}

    layers: list[Spec] = [
        {
            "data": {"name": "phases"},
            "mark": {"type": "rect", "clip": True, "opacity": 0.6},
            "encoding": {**span("from", "to"), "fill": literal("fill")},
        },
        {
            "data": {"name": "marks"},
            # A strip at the top edge, because a wide full-height band would hide the phases.
            "mark": {"type": "rect", "clip": True, "opacity": 0.6, "y": 0, "y2": 5},
            "encoding": {**span("lo", "hi"), "fill": literal("ink")},
        },
        {
            "data": {"name": "marks"},
            "mark": {"type": "rule", "clip": True, "strokeWidth": 1.4, "strokeDash": [5, 3]},
            "encoding": {"x": X, "stroke": literal("ink")},
        },
    ]
    if not strips:
        del layers[1]
    for side, test in (("left", "<="), ("right", ">")) if labels else ():
        layers.append(
            {
                "data": {"name": "marks"},
                "transform": [PLACE, {"filter": f"datum.place {test} datum.turn"}],
                "mark": {
                    "type": "text", "align": side, "dx": 6 if side == "left" else -6, "baseline": "top",
                    "fontWeight": 600, "clip": True, "y": {"expr": "9 + 15 * datum.row"},
                },
                "encoding": {"x": X, "text": {"field": "label"}, "fill": literal("ink")},
            }
        )  # fmt: skip
    return layers


def phase_names() -> list[Spec]:
    """The phases' names above the plot, each at the start of its part of the view if it fits."""
    begin = {"calculate": "max(datum.from, x0)", "as": "step"}
    fits = {"filter": "datum.wide > 5.5 * length(datum.name)"}  # pixels of a letter of this size
    return [
        {
            "data": {"name": "phases"},
            "transform": [begin, {"calculate": "$wide", "as": "wide"}, fits],
            "mark": {"type": "text", "align": "left", "baseline": "bottom", "color": "$soft", "fontSize": 10,
                     "dx": 1, "y": {"expr": "-3"}},
            "encoding": {"x": X, "text": {"field": "name", "type": "nominal"}},
        }
    ]  # fmt: skip


def cursor_rule() -> Spec:
    """The vertical line at the step under the pointer."""
    return {
        "data": {"values": [{}]},
        "transform": [{"calculate": "at", "as": "step"}, {"filter": "isValid(datum.step)"}],
        "mark": {"type": "rule", "color": "$soft", "strokeWidth": 1, "clip": True},
        "encoding": {"x": X},
    }


def level_rule(y: Spec, value: float) -> Spec:
    """A faint horizontal line at ``value`` of the axis ``y``."""
    return {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "color": "$faint", "strokeWidth": 1},
        "encoding": {"y": {**y, "datum": value}},
    }


def band(y: Spec, low: str, high: str, ink: str, opacity: float = 0.2) -> Spec:
    """The area between the columns ``low`` and ``high`` on the axis ``y``."""
    return {
        "mark": {"type": "area", "color": ink, "opacity": opacity, "clip": True},
        "encoding": {"x": X, "y": {**y, "field": low}, "y2": {"field": high}},
    }


def cursor_dot(encoding: Spec, ink: str) -> Spec:
    """The value at the step under the pointer."""
    mark = {"type": "point", "filled": True, "size": 45, "color": ink, "opacity": 1, "clip": True}
    return {"transform": [{"filter": "datum.step === at"}], "mark": mark, "encoding": encoding}


def chart(layers: list[Spec], frame: Frame, height: int, *, params: list[Spec] | None = None) -> Spec:
    """A responsive single-view chart over the data set ``rows``."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [*step_params(frame), *(params or [])],
        "data": {"name": "rows"},
        # The y axis fits the rows in view: others are dropped, except one neighbour on each side.
        "transform": [{"filter": "datum.next >= x0 && datum.prev <= x1"}],
        "layer": layers,
    }
