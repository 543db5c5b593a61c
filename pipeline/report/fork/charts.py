"""Vega-Lite specifications of the fork charts. Colours are tokens (``pipeline.report.theme``)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import polars as pl

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.report.axes import SCHEMA
from pipeline.report.fork.chart_data import Rows, forest_rows, gap_rows, rate_rows, shade_rows, win_rows

Spec = dict[str, Any]

COLUMNS = 3
"""Number of arms side by side."""
PANEL = 250
"""Width of an arm's panel in CSS pixels."""
TITLE_LETTERS = 28
"""Most letters in a line of an arm's title; a parameter is never broken."""
LABEL = 380
"""Widest label of an arm beside an axis, in CSS pixels; longer ones are cut."""
LETTER, DRAWN_LETTER = 6.8, 5.0
"""Width of a letter in CSS pixels: in the widest fonts, for which space is reserved because readers' fonts differ,
and in the font of the layout.
"""
ARM_COLOURS = ("soft", "fork-a", "fork-b", "converged", "onset", "accent", "warn", "measure")
SIDES = {"wins": "$phase1", "loses": "$phase3", "even": "$wash"}
WEIGHT_COLOURS = {"live": "$fork-a", "ema": "$fork-b", "lawa": "$converged"}


def runs_spec(table: pl.DataFrame, report: ForkReport) -> Spec:
    """For each arm the learning rate above and the gap below: every run, their mean and its interval, on one scale."""
    arms = list(report.findings.arms)
    curves = {arm: gap_rows(table, report, arm) for arm in arms}
    rates = {arm: rate_rows(report, arm) for arm in arms}
    gaps = [row["gap"] for runs, _ in curves.values() for row in runs]
    gaps += [row[edge] for _, means in curves.values() for row in means for edge in ("low", "high")]
    spread = (max(gaps) - min(gaps)) or 1.0 if gaps else 1.0
    domain = [min(gaps) - 0.04 * spread, max(gaps) + 0.04 * spread] if gaps else [0, 1]
    reference = curves[report.findings.baseline][1]
    views = [
        {
            "title": {"text": title_lines(arm), "offset": 6},
            "spacing": 4,
            "vconcat": [
                _rate_view(rates[arm], shade_rows(report, arm), first=index % COLUMNS == 0),
                _gap_view(
                    *curves[arm],
                    shade_rows(report, arm),
                    [] if arm == report.findings.baseline else reference,
                    domain,
                    colour=f"${ARM_COLOURS[index % len(ARM_COLOURS)]}",
                    first=index % COLUMNS == 0,
                ),
            ],
        }
        for index, arm in enumerate(arms)
    ]
    return _whole({"columns": COLUMNS, "spacing": {"row": 26, "column": 18}, "concat": views})


def wins_spec(report: ForkReport) -> Spec:
    """Matrix of wins between arms, in pairs of runs."""
    arms = list(report.findings.arms)
    cell = 54
    slack = (LETTER - DRAWN_LETTER) * max(map(len, arms))
    view = {
        "padding": {"left": 8, "top": 8 + slack / 2, "right": 8 + slack, "bottom": 8},
        "data": {"values": win_rows(report)},
        "width": cell * len(arms),
        "height": cell * len(arms),
        "encoding": {
            "x": {**_ARM, "field": "column", "sort": arms, "scale": {"domain": arms}, "title": "... than this one",
                  "axis": {"labelLimit": LABEL, "orient": "top", "labelAngle": -30, "domain": False, "ticks": False}},
            "y": {**_ARM, "field": "row", "sort": arms, "scale": {"domain": arms}, "title": "this arm is lower ...",
                  "axis": {**_room(arms), "domain": False, "titlePadding": 14}},
        },
        "layer": [
            {"mark": {"type": "rect", "stroke": "$paper", "strokeWidth": 2},
             "encoding": {"color": {"field": "side", "type": "nominal", "legend": None,
                                    "scale": {"domain": list(SIDES), "range": list(SIDES.values())}},
                          "opacity": {"field": "weight", "type": "quantitative", "legend": None,
                                      "scale": {"domain": [0, 1], "range": [0.25, 1]}}}},
            {"mark": {"type": "text", "fontSize": 12, "color": "$ink"}, "encoding": {"text": {"field": "text"}}},
        ],
    }  # fmt: skip
    return _whole(view)


def forest_spec(report: ForkReport) -> Spec:
    """Difference of every arm from the baseline with its intervals, for live and averaged weights.

    The thick interval is over data orders; the thin one also counts the evaluation text.
    """
    rows = forest_rows(report)
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    colour = {
        "field": "weights", "type": "nominal", "title": None,
        "scale": {"domain": list(WEIGHT_COLOURS), "range": list(WEIGHT_COLOURS.values())},
        "legend": {"orient": "top"},
    }  # fmt: skip
    y = {
        **_ARM, "field": "arm", "sort": arms, "title": None, "scale": {"domain": arms, "paddingInner": 0.3},
        "axis": {**_room(arms), "grid": False},
    }  # fmt: skip
    offset = {"field": "weights", "sort": list(WEIGHT_COLOURS), "scale": {"paddingInner": 0.4}}
    place = {"y": y, "yOffset": offset, "color": colour}
    axis = {
        "title": f"difference from {report.findings.baseline} in percentage points (left: less damage)",
        "grid": True,
        "labelFlush": False,  # a first label that is moved runs into the second
    }
    return _whole(
        {
            "data": {"values": rows},
            "width": 620,
            "height": max(90, 62 * len(arms)),
            "layer": [
                {"data": {"values": [{"zero": 0}]}, "mark": {"type": "rule", "color": "$faint", "strokeDash": [4, 3]},
                 "encoding": {"x": {"field": "zero", "type": "quantitative"}}},
                *({"mark": {"type": "rule", "strokeWidth": width},
                   "encoding": {**place, "x": {"field": f"{name}low", "type": "quantitative", "axis": axis},
                                "x2": {"field": f"{name}high"}}} for name, width in (("", 2.6), ("whole_", 0.9))),
                {"mark": {"type": "point", "filled": True, "size": 62, "opacity": 1},
                 "encoding": {**place, "x": {"field": "estimate", "type": "quantitative"}}},
            ],
        }
    )  # fmt: skip


def title_lines(arm: str) -> list[str]:
    """The arm's name split into lines: the schedule, then as many parameters per line as fit."""
    lines: list[str] = []
    for part in re.split(r"-(?=[a-z])", arm):
        if lines and len(f"{lines[-1]} {part}") <= TITLE_LETTERS:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def _room(arms: Iterable[str]) -> Spec:
    """Space of an axis for the names of ``arms`` in any font, CSS pixels."""
    return {
        "labelLimit": LABEL,
        "minExtent": min(LABEL, LETTER * max(map(len, arms), default=0)),
        "maxExtent": 400,
    }


def _rate_view(rates: Rows, shades: Rows, *, first: bool) -> Spec:
    top = max(row["rate"] for row in rates) or 1.0
    return {
        "width": PANEL,
        "height": 64,
        "layer": [
            _shading(shades),
            {"data": {"values": rates}, "mark": {"type": "line", "color": "$measure", "strokeWidth": 1.6, "clip": True},
             "encoding": {"x": {**_X, "axis": {**_STEPS, "labels": False, "ticks": False, "title": None}},
                          "y": _y("rate", [0, 1.05 * top], "learning rate" if first else None, "~g", count=3)}},
        ],
    }  # fmt: skip


def _gap_view(
    runs: Rows, means: Rows, shades: Rows, reference: Rows, domain: list[float], *, colour: str, first: bool
) -> Spec:
    title = "gap, %" if first else None
    x = {**_X, "axis": _STEPS}
    layers: list[Spec] = [_shading(shades)]
    if reference:
        dashed = {"type": "line", "color": "$faint", "strokeDash": [5, 3], "strokeWidth": 1.4}
        encoding = {"x": x, "y": _y("mean", domain, title, "~g")}
        layers.append({"data": {"values": reference}, "mark": dashed, "encoding": encoding})
    layers += [
        {"data": {"values": means}, "mark": {"type": "area", "color": colour, "opacity": 0.18, "clip": True},
         "encoding": {"x": x, "y": _y("low", domain, title, "~g"), "y2": {"field": "high"}}},
        {"data": {"values": runs}, "mark": {"type": "line", "color": colour, "strokeWidth": 0.9, "opacity": 0.6},
         "encoding": {"x": x, "y": _y("gap", domain, title, "~g"), "detail": {"field": "run"}}},
        {"data": {"values": means}, "mark": {"type": "line", "color": colour, "strokeWidth": 2.4},
         "encoding": {"x": x, "y": _y("mean", domain, title, "~g")}},
    ]  # fmt: skip
    return {"width": PANEL, "height": 150, "layer": layers}


def _shading(shades: Rows) -> Spec:
    return {
        "data": {"values": shades},
        "mark": {"type": "rect", "color": "$phase3", "opacity": 0.75},
        "encoding": {"x": {"field": "from", "type": "quantitative"}, "x2": {"field": "to"}},
    }


_ARM: Spec = {"type": "nominal"}
_X: Spec = {"field": "step", "type": "quantitative"}
_STEPS: Spec = {
    "title": "updates since the fork",
    "tickCount": 5,
    "labelOverlap": "greedy",
    "labelSeparation": 6,
}


def _y(field: str, domain: list[float], title: str | None, form: str, count: int = 5) -> Spec:
    return {
        "field": field, "type": "quantitative", "scale": {"domain": domain, "nice": False, "zero": False},
        "axis": {"title": title, "format": form, "tickCount": count},
    }  # fmt: skip


def _whole(view: Spec) -> Spec:
    return {"$schema": SCHEMA, **view}
