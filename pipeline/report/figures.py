"""The charts as PNG, drawn without a browser: light, 2x, the whole run, linear in steps."""

from __future__ import annotations

import copy
from typing import Any

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.report.axes import SCHEMA, Spec, shared_data, step_tokens
from pipeline.report.columns import chart_columns, chart_rows, diverged_points
from pipeline.report.curve_charts import GAP, damage_scale, variant_scale
from pipeline.report.frame import Frame
from pipeline.report.heatmap import HeatMap, heat_spec, side_data
from pipeline.report.mechanism_section import waterfall_png
from pipeline.report.panels import Panel, make_panels
from pipeline.report.render import figure_png
from pipeline.report.theme import Quoted, paint, tokens
from pipeline.report.timeline import timeline_data

WIDTH = 760
"""Width of the plotting area, in CSS pixels."""
LEGEND = {"orient": "top", "title": None, "symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolSize": 220}


def draw_figures(frame: Frame, heat: HeatMap | None, report: AuditReport) -> dict[str, bytes]:
    """File name -> PNG: ``trajectory.png`` (all curves on one axis), each chart alone, the heat map."""
    values = figure_tokens(frame)
    shared = {**shared_data(report), "events": timeline_data(report)}
    data = {"rows": chart_rows(chart_columns(frame)), "diverged": diverged_points(frame)}
    data |= paint(shared, values)
    panels = make_panels(frame, len(shared["events"]))
    suite = report.suite
    specs: dict[str, Spec] = {}
    if panels:
        specs["trajectory"] = _stack(panels, suite)
    for panel in panels:
        if panel.name == "events":
            continue
        specs["gap" if panel.name == "damage" else panel.name] = _stack((panel,), suite)
    waterfall = None if report.mechanism is None else waterfall_png(report.mechanism)
    if heat is not None:
        variant = next(iter(heat.values))
        data |= {"cells": heat.cells(variant), **side_data(heat)}
        specs["heatmap"] = _alone(heat_spec(heat, frame), f"Relative weight error of {variant}")
    first = {} if waterfall is None else {"waterfall.png": waterfall}
    return first | {f"{name}.png": figure_png(spec, values, data) for name, spec in specs.items()}


def figure_tokens(frame: Frame) -> dict[str, Any]:
    """Tokens of the static figures."""
    colours = tokens(frame.series, dark=False)
    scale, axis = damage_scale("log", GAP, frame)
    steps = step_tokens("linear", frame)
    return {
        **colours,
        **steps,
        "$xaxis": {**steps["$xaxis"], "title": "step"},
        "$damagescale": scale,
        "$damageaxis": axis,
        "$vscale": paint(variant_scale(frame), colours),
        "$legend": LEGEND,
    }


def _stack(panels: tuple[Panel, ...], suite: str) -> Spec:
    """Stack panels on one step axis, which is labelled once."""
    views = []
    for panel in panels:
        keys = "; ".join(f"{key.stroke}: {key.label}" for key in panel.keys)
        view = _alone(panel.spec, panel.title, [panel.note, keys.capitalize() + "."] if keys else panel.note)
        params = view.pop("params")
        if panel is not panels[-1]:
            view = _bare(view)
        views.append((view, params))
    # Signals belong to the whole figure; only those of a single chart differ between views.
    joined = {param["name"]: param for _, params in views for param in params}
    return {
        "$schema": SCHEMA,
        "title": {"text": Quoted(suite), "fontSize": 15, "offset": 10} if suite and len(panels) > 1 else "",
        "params": list(joined.values()),
        "vconcat": [view for view, _ in views],
        "spacing": 16,
        "resolve": {"scale": {"color": "shared", "strokeDash": "shared"}},
    }


def _alone(spec: Spec, title: str, note: str | list[str] = "") -> Spec:
    """One chart of fixed width with its heading."""
    kept = {
        key: copy.deepcopy(value)
        for key, value in spec.items()
        if key not in ("$schema", "autosize", "padding")
    }
    heading = {"text": title, "subtitle": note} if note else {"text": title}
    named_phases = any(param["name"] == "top" for param in spec["params"])
    # The phases' names are between heading and plot.
    return {**kept, "width": WIDTH, "title": {**heading, "offset": 18 if named_phases else 6}}


def _bare(spec: Any) -> Any:
    """``spec`` without the labels of its step axis."""
    if isinstance(spec, dict):
        return {key: "$xaxis_bare" if value == "$xaxis" else _bare(value) for key, value in spec.items()}
    return [_bare(value) for value in spec] if isinstance(spec, list) else spec
