"""The figure of several audits on one step axis: gap, FP32 perplexity and learning rate of each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.report.axes import SCHEMA, Spec
from pipeline.report.curve_charts import EARLY
from pipeline.report.figures import WIDTH
from pipeline.report.render import figure_png
from pipeline.report.theme import Quoted, distinct_colours, tokens
from pipeline.runs.table_files import READERS
from pipeline.spec import variant_label

if TYPE_CHECKING:
    from pipeline.analysis.statistics.curves import Curve

HEIGHTS = {"gap": 230, "perplexity": 130, "learning_rate": 90}
DASHES = ([1, 0], [5, 3], [2, 2], [8, 3, 2, 3])
"""Dash patterns of the audits that share a colour, in turn."""


def comparison_png(curves: Sequence[Curve], variant: str, windows: Sequence[tuple[int, int]]) -> bytes:
    """Draw the gap of ``variant``, the FP32 perplexity and, if known, the learning rate of every audit as PNG.

    Curves whose names differ only in a final number share a colour and differ in dash. ``windows`` are shaded. The
    steep first hundredths of a run may run off the perplexity axis.
    """
    return figure_png(comparison_spec(curves, variant, windows), tokens((), dark=False))


def group_of(name: str) -> str:
    """A training's name without its seed: the last part of its path without suffix and final number.

    >>> group_of("outputs/wsd-seed1"), group_of("s3://bucket/cosine"), group_of("runs/7"), group_of("a/wsd-seed0.csv")
    ('wsd', 'cosine', '7', 'wsd')
    """
    path = PurePosixPath(name.rstrip("/"))
    last = (path.stem if path.suffix in READERS else path.name) or name
    return re.sub(r"[-_ ]?(seed|run)?[-_ ]?\d+$", "", last) or last


def comparison_spec(curves: Sequence[Curve], variant: str, windows: Sequence[tuple[int, int]]) -> Spec:
    """The chart: one view for each quantity that is known, on a step axis that all share."""
    groups = list(dict.fromkeys(Quoted(group_of(curve.name)) for curve in curves))
    rows, members = [], dict.fromkeys(groups, 0)
    for curve in curves:
        group = Quoted(group_of(curve.name))
        rows += _rows(curve, variant, group, members[group])
        members[group] += 1
    titles = {
        "gap": f"{variant_label(variant)} gap: perplexity against FP32, minus 1",
        "perplexity": "FP32 perplexity",
        "learning_rate": "Learning rate",
    }
    shown = [name for name in HEIGHTS if any(row[name] is not None for row in rows)]
    formats = {"gap": "~%", "perplexity": ",.6~g", "learning_rate": ".2~g"}
    n_dashes = max(members.values())
    subtitle = "Shaded: the two windows that are compared."
    if n_dashes > 1:
        subtitle += " Dashed: further runs of the same name, other seeds for example."
    views = []
    for name in shown:
        y: Spec = {
            "field": name, "type": "quantitative",
            "scale": {"zero": name != "perplexity", "nice": False, "padding": 6},
            "axis": {"title": None, "tickCount": 4, "labelExpr": f"format(datum.value, '{formats[name]}')"},
        }  # fmt: skip
        x: Spec = {
            "field": "step", "type": "quantitative", "scale": {"nice": False, "zero": False},
            "axis": {"title": None, "labels": name == shown[-1], "labelExpr": "format(datum.value, '~s')"},
        }  # fmt: skip
        lines = {
            "mark": {"type": "line", "clip": True, "strokeWidth": 1.6},
            "encoding": {
                "x": x,
                "y": y,
                "color": {
                    "field": "group", "type": "nominal", "sort": groups,
                    "scale": {"domain": groups, "range": distinct_colours(len(groups))},
                    "legend": {"orient": "top", "title": None, "symbolType": "stroke", "symbolStrokeWidth": 2.5},
                },
                "strokeDash": {
                    "field": "member", "type": "ordinal", "legend": None,
                    "scale": {"domain": list(range(n_dashes)),
                              "range": [DASHES[index % len(DASHES)] for index in range(n_dashes)]},
                },
                "detail": {"field": "audit", "type": "nominal"},
            },
        }  # fmt: skip
        views.append(
            {
                "width": WIDTH,
                "height": HEIGHTS[name],
                "title": {"text": titles[name], "subtitle": subtitle if name == shown[0] else ""},
                "layer": [_shading(windows, x), lines],
            }
        )
    return {"$schema": SCHEMA, "data": {"values": rows}, "vconcat": views, "spacing": 14}


def _shading(windows: Sequence[tuple[int, int]], x: Spec) -> Spec:
    return {
        "data": {"values": [{"step": first, "to": last} for first, last in windows]},
        "mark": {"type": "rect", "color": "$phase1", "clip": True},
        "encoding": {"x": x, "x2": {"field": "to"}},
    }


def _rows(curve: Curve, variant: str, group: str, member: int) -> list[dict[str, Any]]:
    gap = curve.gap(variant)
    rates = curve.learning_rate
    cut = curve.step[0] + EARLY * (curve.step[-1] - curve.step[0])
    return [
        {
            "step": int(step),
            "group": group,
            "audit": Quoted(f"{group} {member}"),
            "member": member,
            "gap": _finite(gap[index]),
            "perplexity": None if step < cut else _finite(math.exp(min(curve.fp32_nll_nats[index], 700.0))),
            "learning_rate": None if rates is None else _finite(rates[index]),
        }
        for index, step in enumerate(curve.step)
    ]


def _finite(value: float) -> float | None:
    """``value`` for JSON; None, a gap in the line, if it is not finite."""
    return float(value) if math.isfinite(value) else None
