"""The line charts over training steps: perplexity, damage, learning rate, kurtosis, kappa."""

from __future__ import annotations

from pipeline.measurements import Column, choices
from pipeline.report.axes import (
    Spec,
    X,
    backdrop,
    band,
    chart,
    cursor_dot,
    cursor_rule,
    level_rule,
    phase_names,
)
from pipeline.report.frame import Frame, Series
from pipeline.report.theme import dash

EARLY = 0.03
"""Initial share of the run that may run off the top of the perplexity chart."""
GAP_LINEAR = 0.001
"""The gap axis is linear within +-0.1 % and logarithmic outside: a gap can be zero or negative."""
GAP = Column(
    "gap", "share", "Perplexity gap", "Perplexity against FP32, minus 1.", format="~%", better="lower"
)
"""The default measure of the damage chart; the others are columns of measurements."""


def measures() -> list[Column]:
    """The choices of the damage chart."""
    return [GAP, *choices()]


def damage_scale(kind: str, measure: Column, frame: Frame) -> tuple[Spec, Spec]:
    """(scale, axis) of the damage chart; ``kind`` is ``log`` or ``linear``."""
    axis: Spec = {"title": None, "tickCount": 5, "labelExpr": f"format(datum.value, '{measure.format}')"}
    if measure is not GAP and (kind == "linear" or measure.axis == "linear"):
        return {"type": "linear", "zero": False, "nice": True}, axis
    if kind == "linear":
        return {"type": "linear", "zero": True, "nice": True}, axis
    if measure is not GAP:
        return {"type": "log", "nice": False, "padding": 5}, axis
    largest = max(
        (abs(value) for one in frame.quantized for _, value in frame.finite(f"{one.key}_gap")), default=1.0
    )
    # d3 has no ticks for this scale. On more than five decades only powers of ten fit.
    positive = [
        digit * 10.0**power for power in range(-3, 9) for digit in ((1, 3) if largest < 100 else (1,))
    ]
    # Vega would thin out the values to a tick count.
    del axis["tickCount"]
    axis |= {"values": [-value for value in reversed(positive)] + [0, *positive], "labelOverlap": False}
    return {"type": "symlog", "constant": GAP_LINEAR, "nice": False, "padding": 5}, axis


def perplexity(frame: Frame) -> Spec:
    """Perplexity of every variant on a log axis that ends at signal ``top``."""
    y = {
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "domainMax": {"expr": "top"}, "padding": 4},
        "axis": {"title": None, "labelExpr": _log_labels(frame), "labelOverlap": "greedy"},
    }
    layers = [*backdrop(labels=True), *phase_names()]
    for series in _back_to_front(frame.series):
        layers += variant_lines(series, frame, "perplexity", y)
    return chart(
        [*layers, cursor_rule()], frame, 190, params=[{"name": "top", "value": perplexity_top(frame)}]
    )


def _log_labels(frame: Frame) -> str:
    """Label expression: every digit within a decade, then 1, 2 and 5, then powers of ten."""
    lowest = min(
        (value for one in frame.series for _, value in frame.finite(f"{one.key}_perplexity")), default=1.0
    )
    digit = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    span = f"top / {lowest:.6g}"
    hidden = f"{span} > 3000 && {digit} !== 1 || {span} > 12 && indexof([1, 2, 5], {digit}) < 0"
    return f"{hidden} ? '' : format(datum.value, ',.6~g')"


def perplexity_top(frame: Frame) -> float:
    """Upper end of the perplexity axis for the whole run: below the initial fall if that dominates.

    The page applies the same rule to the part in view when it is zoomed (``topOf`` in draw.js).
    """
    points = [pair for one in frame.series for pair in frame.finite(f"{one.key}_perplexity")]
    if not points:
        return 1.0
    cut = frame.first_step + EARLY * (frame.last_step - frame.first_step)
    full = max(value for _, value in points)
    late = [value for step, value in points if step >= cut]
    top = 1.05 * max(late, default=full)
    return top if len(late) >= len(points) / 2 and full > 3 * top else 1.02 * full


def damage(frame: Frame, measure: Column) -> Spec:
    """Damage of every quantized variant, on the axis of token ``$damagescale``."""
    y = {"type": "quantitative", "scale": "$damagescale", "axis": "$damageaxis"}
    layers = backdrop()
    if measure is GAP:
        layers.append(level_rule(y, 0))
    shown = [one for one in frame.quantized if frame.has(f"{one.key}_{measure.name}")]
    for series in _back_to_front(tuple(shown)):
        layers += variant_lines(series, frame, measure.name, y)
    return chart([*layers, cursor_rule()], frame, 220)


def single(
    frame: Frame, column: str, number_format: str, *, zero: bool, edges: tuple[str, str] | None = None
) -> Spec:
    """One quantity of the run (learning rate, kurtosis). edges: columns of the ends of its band."""
    y = {
        "field": column,
        "type": "quantitative",
        "scale": {"zero": zero, "nice": False, "padding": 6},
        "axis": {
            "title": None,
            "tickCount": 3,
            "labelExpr": f"datum.value ? format(datum.value, '{number_format}') : '0'",
        },
    }
    encoding = {"x": X, "y": y}
    line = {"mark": {"type": "line", "color": "$measure", "clip": True}, "encoding": encoding}
    shade = [] if edges is None or not frame.has(edges[0]) else [band(y, *edges, "$measure")]
    dot = cursor_dot(encoding, "$measure")
    return chart([*backdrop(), *shade, line, dot, cursor_rule()], frame, 96)


def _back_to_front(series: tuple[Series, ...]) -> list[Series]:
    """Drawing order. INT8 lies on FP32 within a line's width, so the dashed INT8 is drawn above the solid FP32."""
    order = {"fp32": 0, "int4": 1, "int8": 2}
    return sorted(series, key=lambda one: order.get(one.key, 1))


def variant_lines(series: Series, frame: Frame, column: str, y: Spec) -> list[Spec]:
    """Band (for a gap with a standard error), line, single points, cursor dot and crosses of one variant."""
    field = f"{series.key}_{column}"
    if not frame.has(field):
        return []
    ink = f"$v_{series.key}"
    colour = {"datum": series.label, "type": "nominal", "scale": "$vscale", "legend": "$legend"}
    encoding = {"x": X, "y": {**y, "field": field}}
    layers: list[Spec] = []
    if frame.has(f"{field}_lo"):
        layers.append(band(y, f"{field}_lo", f"{field}_hi", ink))
    layers.append(
        {
            "mark": {"type": "line", "clip": True},
            "encoding": {**encoding, "color": colour, "strokeDash": {**colour, "scale": dash_scale(frame)}},
        }
    )
    dot = {"type": "point", "filled": True, "color": ink, "opacity": 1, "clip": True}
    layers.append(
        {
            # A value between two gaps has no line and is drawn as a dot.
            "transform": [{"filter": f"datum.step === at || datum.{series.key}_lone"}],
            "mark": {**dot, "size": 45},
            "encoding": encoding,
        }
    )
    if frame.diverged(field):
        layers.append(
            {
                "data": {"name": "diverged"},
                "transform": [{"filter": f"datum.key === '{series.key}'"}],
                "mark": {**dot, "shape": "cross", "angle": 45, "size": 60, "y": {"expr": "9"}},
                "encoding": {"x": X},
            }
        )  # fmt: skip
    # The page removes the layers of a hidden variant.
    return [{"variant": series.key, **layer} for layer in layers]


def dash_scale(frame: Frame) -> Spec:
    """Dash pattern of every variant, so that a legend shows it too."""
    return {
        "domain": [one.label for one in frame.series],
        "range": [dash(one.key, frame.series) for one in frame.series],
    }


def variant_scale(frame: Frame) -> Spec:
    """Colour scale of the legends."""
    return {"domain": [one.label for one in frame.series], "range": [f"$v_{one.key}" for one in frame.series]}
