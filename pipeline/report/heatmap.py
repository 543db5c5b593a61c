"""Heat map of the relative error of every quantized tensor at every checkpoint.

Rows are grouped by module and ordered by layer, so that a trend over depth is a gradient and an unusual module is a
block. All experts of a layer are one row for each of their matrices: ||W' - W|| / ||W|| over all of them. Values are
stored as 16-bit integers in base64: 150 tensors x 154 checkpoints are 60 kB.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.report.axes import SCHEMA, Spec, X, cursor_rule, step_params
from pipeline.report.frame import Frame

MAX_CELLS = 60_000
"""Most cells over all variants; beyond it every k-th checkpoint is drawn, and the page says so."""
LEVELS = 65_000
"""Values are stored as multiples of (largest value / LEVELS)."""
MISSING, DIVERGED = 65_535, 65_534
_HEADING = 17
_EXPERT = r"(\.experts\.)\d+(\.)"
"""What differs between the names of the same matrix of two experts."""


@dataclass(frozen=True)
class Row:
    """One tensor's row of the map."""

    name: str
    """Tensor name as in the model."""
    layer: int | None
    """First number in the name."""
    y: float
    """Upper edge in pixels."""
    y2: float
    """Lower edge in pixels."""


@dataclass(frozen=True)
class HeatMap:
    """Values of all variants on one grid of tensors and steps."""

    rows: tuple[Row, ...]
    headings: tuple[tuple[str, float], ...]
    """(module, y of its text)."""
    height: int
    """Pixels."""
    steps: tuple[int, ...]
    edges: tuple[tuple[float, float], ...]
    """Start and end of each step's column."""
    every: int
    """Spacing of the drawn checkpoints."""
    values: dict[str, list[list[float | None]]]
    """Variant -> rows x steps; None = not measured, NaN = diverged."""

    def packed(self, variant: str) -> dict[str, Any]:
        """The values of ``variant`` as ``{"unit", "data"}`` for the page (little-endian, row by row)."""
        flat = [value for line in self.values[variant] for value in line]
        largest = max((value for value in flat if value is not None and math.isfinite(value)), default=0.0)
        unit = largest / LEVELS or 1.0
        numbers = [_level(value, unit) for value in flat]
        data = base64.b64encode(struct.pack(f"<{len(numbers)}H", *numbers)).decode()
        return {"unit": unit, "data": data}

    def cells(self, variant: str) -> list[dict[str, Any]]:
        """One mapping per measured cell, for Vega."""
        return [
            {"a": lo, "b": hi, "y": row.y, "y2": row.y2, "v": value if math.isfinite(value) else None}
            for row, line in zip(self.rows, self.values[variant], strict=True)
            for (lo, hi), value in zip(self.edges, line, strict=True)
            if value is not None
        ]


def make_heatmap(tensors: pl.DataFrame, frame: Frame) -> HeatMap | None:
    """The heat map of ``tensors``; None if there is nothing to show."""
    needed = {"step", "variant", "name", "relative_error"}
    if not needed <= set(tensors.columns):
        return None
    kept = tensors.filter(pl.col("relative_error").is_not_null())
    if kept.is_empty():
        return None
    kept = _experts_together(kept)
    variants = sorted(kept["variant"].unique().to_list(), key=lambda name: (_preference(name, frame), name))
    names = kept["name"].unique(maintain_order=True).to_list()
    all_steps = [
        step for step in frame.rows["step"].unique().sort().to_list() if step not in frame.missing_steps
    ]
    every = max(1, math.ceil(len(all_steps) * len(names) * len(variants) / MAX_CELLS))
    steps = all_steps[::every]
    rows, headings, height = _layout(names)
    at = {
        (variant, name, step): value
        for variant, name, step, value in kept.select("variant", "name", "step", "relative_error").iter_rows()
    }
    values = {
        variant: [[at.get((variant, row.name, step)) for step in steps] for row in rows]
        for variant in variants
    }
    edges = _edges(steps, frame)
    return HeatMap(rows, headings, height, tuple(steps), edges, every, values)


def _experts_together(tensors: pl.DataFrame) -> pl.DataFrame:
    """``tensors`` with the same matrix of all experts of a layer as one: a mixture has thousands of them."""
    one = pl.col("name").str.replace(_EXPERT, r"${1}*$2")
    if not tensors.select((one != pl.col("name")).any()).item():
        return tensors
    power = pl.col("n") * (pl.col("mean").pow(2) + pl.col("std").pow(2))
    together = (pl.col("relative_error").pow(2) * power).sum() / power.sum()
    return tensors.group_by("step", "variant", one, maintain_order=True).agg(relative_error=together.sqrt())


def _preference(variant: str, frame: Frame) -> int:
    specs = [one.spec for one in sorted(frame.quantized, key=lambda one: (one.key != "int4", one.key))]
    return specs.index(variant) if variant in specs else len(specs)


def _level(value: float | None, unit: float) -> int:
    if value is None:
        return MISSING
    return round(value / unit) if math.isfinite(value) else DIVERGED


def _edges(steps: list[int], frame: Frame) -> tuple[tuple[float, float], ...]:
    """Edges of the columns: they meet halfway between steps and do not cover a missing step."""
    fences = sorted({*steps, *frame.missing_steps})
    found = []
    for step in steps:
        place = fences.index(step)
        lo = (fences[place - 1] + step) / 2 if place else float(step)
        hi = (step + fences[place + 1]) / 2 if place + 1 < len(fences) else float(step)
        found.append((lo, hi if hi > lo else lo + 1))
    return tuple(found)


def _layout(names: list[str]) -> tuple[tuple[Row, ...], tuple[tuple[str, float], ...], int]:
    """Rows grouped by module, and the height of the whole."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = itertools.takewhile(lambda each: len(set(each)) == 1, parts)
    prefix = "".join(f"{part}." for part, *_ in shared)
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
        module = name[match.end() :] if match else name.removeprefix(prefix)
        module = re.sub(r"\.weight$", "", module) or name
        groups.setdefault(module, []).append((int(match[1]) if match else -1, name))
    thick = float(min(16, max(4, 300 // len(names))))
    y, rows, headings = 0.0, [], []
    for module, members in groups.items():
        headings.append((module, y + _HEADING - 9))
        y += _HEADING
        for layer, name in sorted(members):
            rows.append(Row(name, layer if layer >= 0 else None, y, y + thick))
            y += thick
        y += 6
    return tuple(rows), tuple(headings), math.ceil(y)


def heat_spec(heat: HeatMap, frame: Frame) -> Spec:
    """The chart over data sets ``cells``, ``layers``, ``headings``, ``marks``; a unit of y is a pixel."""
    y = {"type": "quantitative", "scale": {"domain": [0, heat.height], "reverse": True, "nice": False},
         "axis": {"title": None, "labels": False, "grid": False}}  # fmt: skip
    legend = {
        "orient": "top", "title": "relative error", "gradientLength": 180, "gradientThickness": 9,
        "offset": 6, "tickCount": 3, "format": "~g", "titleOrient": "left",
        "titleAnchor": "middle", "titleLimit": 200,
    }  # fmt: skip
    labels = {
        "type": "text",
        "align": "right",
        "x": -6,
        "color": "$soft",
        "fontSize": 10,
        "baseline": "middle",
    }
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": heat.height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": step_params(frame),
        "layer": [
            {
                "data": {"name": "cells"},
                "transform": [{"filter": "datum.b >= x0 && datum.a <= x1"}],
                # Cells overlap, because edges that only touch show as seams.
                "mark": {"type": "rect", "clip": True, "strokeWidth": 0, "x2Offset": 1.3},
                "encoding": {
                    "x": {**X, "field": "a"}, "x2": {"field": "b"},
                    "y": {**y, "field": "y"}, "y2": {"field": "y2"},
                    "color": {"field": "v", "type": "quantitative", "legend": legend,
                              "scale": {"scheme": "cividis", "zero": False, "nice": False}},
                },
            },
            {
                "data": {"name": "layers"},
                "mark": labels,
                "encoding": {"y": {**y, "field": "y"}, "text": {"field": "text", "type": "nominal"}},
            },
            {
                "data": {"name": "headings"},
                "mark": {"type": "text", "align": "left", "x": 0, "color": "$ink", "fontWeight": 600},
                "encoding": {"y": {**y, "field": "y"}, "text": {"field": "text", "type": "nominal"}},
            },
            *(
                {
                    "data": {"name": "marks"},
                    "transform": [{"filter": f"datum.kind == '{kind}'"}],
                    "mark": {"type": "rule", "clip": True, "strokeDash": [5, 3], "color": ink},
                    "encoding": {"x": X},
                }
                for kind, ink in (("convergence", "$converged"), ("onset", "$onset"))
            ),
            cursor_rule(),
        ],
    }  # fmt: skip


def side_data(heat: HeatMap) -> dict[str, list[dict[str, Any]]]:
    """Data sets ``layers`` and ``headings``; layers are labelled as densely as is readable."""
    thick = heat.rows[0].y2 - heat.rows[0].y
    stride = next(step for step in (1, 2, 4, 8, 16, 32, 64) if step * thick >= 11 or step == 64)
    layers = [
        {"y": (row.y + row.y2) / 2, "text": str(row.layer)}
        for row in heat.rows
        if row.layer is not None and row.layer % stride == 0
    ]
    return {"layers": layers, "headings": [{"y": y, "text": module} for module, y in heat.headings]}
