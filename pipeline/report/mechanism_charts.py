"""Charts of the mechanism: the three factors over the steps, the parabola's share, and the growth as a waterfall.

The factors are drawn over their values in the first window, so that three numbers of different units share one log
axis, and a line twice as high means twice the damage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import polars as pl

from pipeline.analysis.trajectory.mechanism.control_losses import FACTORS
from pipeline.analysis.trajectory.mechanism.growth_shares import GrowthShares
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism
from pipeline.analysis.trajectory.mechanism.mechanism_words import FACTOR_WORDS, share_of
from pipeline.report.axes import SCHEMA, Spec, X, backdrop, band, chart, cursor_dot, cursor_rule
from pipeline.report.frame import BAND_SE, Frame

DAMAGE = "damage"


@dataclass(frozen=True)
class Line:
    """One line of a chart that is not of a variant."""

    label: str
    colour: str
    """Token."""
    dash: tuple[int, int]
    width: float
    stroke: str
    """How it looks without colours, in words."""


LINES = {
    "error_size": Line(FACTOR_WORDS["error_size"], "$factor1", (6, 3), 1.8, "dashed"),
    "sensitivity": Line(FACTOR_WORDS["sensitivity"], "$factor2", (1, 0), 1.8, "solid"),
    "alignment": Line(FACTOR_WORDS["alignment"], "$factor3", (2, 2), 1.8, "dotted"),
    DAMAGE: Line("damage, their product", "$soft", (1, 0), 0.9, "thin"),
}
"""Contents of the chart of the factors."""
COLUMNS = (
    *(f"factor_{name}" for name in LINES),
    *(f"factor_{name}_{end}" for name in FACTORS for end in ("lo", "hi")),
)
PARABOLA = "parabola_share"
FLOOR = 0.7
"""Start of the bars of damage, as a share of the smaller one, because a log axis has no 0."""
WIDTH, ROW = 300, 32
"""Width of the waterfall's plot and height of a bar with its margin, CSS pixels."""


def with_factors(frame: Frame, mechanism: Mechanism) -> Frame:
    """``frame`` with the columns that the charts draw, of the variant that the verdict speaks of."""
    key, rows = mechanism.headline, frame.rows
    split = mechanism.by_variant[key].shares
    damage = pl.col(f"{key}_nll_nats") - pl.col("fp32_nll_nats")
    if not {f"{key}_{name}" for name in FACTORS} <= set(rows.columns):
        return frame
    values = {**{name: pl.col(f"{key}_{name}") for name in FACTORS}, DAMAGE: damage}
    before = {} if split is None else {each.name: each.before.estimate for each in split.factors}
    if split is not None:
        before[DAMAGE] = split.damage_before.estimate
    for name, value in values.items():
        over = before.get(name, 1.0)
        drawn = {f"factor_{name}": value}
        if f"{key}_{name}_se" in rows.columns:
            half = BAND_SE * pl.col(f"{key}_{name}_se")
            drawn |= {f"factor_{name}_lo": value - half, f"factor_{name}_hi": value + half}
        over_it = {column: each / over for column, each in drawn.items()}
        # A log axis has no place for the others.
        rows = rows.with_columns(
            pl.when(each > 0).then(each).alias(column) for column, each in over_it.items()
        )
    if {f"{key}_slope", f"{key}_curvature"} <= set(rows.columns):
        parabola = (pl.col(f"{key}_slope") + pl.col(f"{key}_curvature") / 2) / damage
        rows = rows.with_columns(parabola.alias(PARABOLA))
    return replace(frame, rows=rows)


def factors_chart(frame: Frame) -> Spec:
    """The three factors and the damage on one log axis."""
    digit = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    y: Spec = {
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 6},
        "axis": {
            "title": None,
            "tickCount": 5,
            "labelExpr": f"indexof([1, 2, 5], {digit}) < 0 ? '' : format(datum.value, '~g')",
            "labelOverlap": "greedy",
        },
    }
    layers = backdrop()
    for name, line in shown_lines(frame).items():
        field = f"factor_{name}"
        if frame.has(f"{field}_lo"):
            layers.append(band(y, f"{field}_lo", f"{field}_hi", line.colour, 0.15))
        mark = {"type": "line", "clip": True, "color": line.colour, "strokeDash": list(line.dash)}
        encoding = {"x": X, "y": {**y, "field": field}}
        layers += [
            {"mark": {**mark, "strokeWidth": line.width}, "encoding": encoding},
            cursor_dot(encoding, line.colour),
        ]
    return chart([*layers, cursor_rule()], frame, 190)


def shown_lines(frame: Frame) -> dict[str, Line]:
    """The ``LINES`` with a value to draw."""
    return {name: line for name, line in LINES.items() if frame.finite(f"factor_{name}")}


def waterfall(split: GrowthShares) -> Spec:
    """The damage of the first window, what each factor multiplied it by, and the damage at the end."""
    before, end = split.damage_before.estimate, split.damage_end.estimate
    bottom = FLOOR * min(before, end, *_stairs(split))
    rows = [_bar("first window", bottom, before, "$soft", _nats(before))]
    for each, at in zip(split.factors, [before, *_stairs(split)], strict=False):
        text = f"x {each.times.estimate:.2f}" + ("" if each.share is None else f",  {share_of(each)}")
        low, middle, high = (at * end for end in (each.times.lower, each.times.estimate, each.times.upper))
        bar = _bar(FACTOR_WORDS[each.name], at, middle, LINES[each.name].colour, text)
        rows.append({**bar, "low": low, "high": high, "edge": max(at, high)})
    rows.append(_bar("end", bottom, end, "$soft", _nats(end)))
    top = max(before, end, *(row["edge"] for row in rows))
    x: Spec = {
        "type": "quantitative",
        # Space for the text beside the longest bar.
        "scale": {"type": "log", "domain": [bottom, top * (top / bottom) ** 1.1], "nice": False},
        "axis": {
            "title": "nats per token",
            "grid": True,
            "tickCount": 4,
            "labelExpr": "format(datum.value, '~g')",
            "labelOverlap": "greedy",
            "labelSeparation": 14,
        },
    }
    y = {
        "field": "what",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "labelLimit": 0, "minExtent": 150},
    }
    ink = {"field": "ink", "type": "nominal", "scale": None, "legend": None}
    layers = [
        {
            "mark": {"type": "bar", "height": 18},
            "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}, "y": y, "fill": ink},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 1.4, "color": "$ink"},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y},
        },
        {
            "mark": {"type": "text", "align": "left", "dx": 7, "color": "$ink"},
            "encoding": {"x": {**x, "field": "edge"}, "y": y, "text": {"field": "text", "type": "nominal"}},
        },
    ]
    return {
        "$schema": SCHEMA,
        "config": {"axisY": {}},
        "width": WIDTH,
        "height": ROW * len(rows),
        "data": {"values": rows},
        "layer": layers,
    }


def _bar(what: str, start: float, to: float, ink: str, text: str) -> Spec:
    return {"what": what, "from": start, "to": to, "edge": max(start, to), "ink": ink, "text": text}


def _stairs(split: GrowthShares) -> list[float]:
    stairs, at = [], split.damage_before.estimate
    for each in split.factors:
        at *= each.times.estimate
        stairs.append(at)
    return stairs


def _nats(value: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{value:.{digits}f} nats"
