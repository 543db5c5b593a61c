"""The colours of the page and of every chart, light and dark.

A chart specification names colours (and axes) by tokens such as ``"$ink"``; :func:`paint` puts the values
in: plain colours for a figure, ``var(--ink)`` for the page's SVG charts, which then follow the page's
palette (system, button or print) without being drawn again, and signals for the heat map, whose canvas
knows no CSS. Variant colours are those of Okabe and Ito, which stay apart for colour-blind readers; a
variant has one colour everywhere. Lines also differ in dash, for black-and-white print.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.frame import Series

LIGHT = {
    "paper": "#ffffff", "card": "#ffffff", "ink": "#1b1f24", "soft": "#57606a", "faint": "#8c959f",
    "line": "#d8dee4", "grid": "#e9edf1", "wash": "#f5f7f9", "accent": "#0b5cad", "warn": "#9a3412",
    "phase1": "#e3eef9", "phase2": "#efefe8", "phase3": "#fde8d7", "converged": "#0f7b5f", "onset": "#a3195b",
    "measure": "#5b6470", "factor1": "#6a51a3", "factor2": "#00796b", "factor3": "#b07900",
}  # fmt: skip
DARK = {
    "paper": "#0f1317", "card": "#151a20", "ink": "#e8ebee", "soft": "#a5afb9", "faint": "#77828d",
    "line": "#2c343d", "grid": "#262d35", "wash": "#1b2129", "accent": "#7cb7ff", "warn": "#ffab7a",
    "phase1": "#15263a", "phase2": "#232524", "phase3": "#3a2517", "converged": "#4fd1a5", "onset": "#ff7eb6",
    "measure": "#b3bcc6", "factor1": "#b9a5f2", "factor2": "#4dd0b8", "factor3": "#f0c24b",
}  # fmt: skip

_OWN = {"fp32": ("#1b1f24", "#f0f3f6"), "int8": ("#0072b2", "#56b4e9"), "int4": ("#d55e00", "#ff9043")}
_OTHERS = (
    ("#009e73", "#2fd3a4"), ("#b0478f", "#e58fc8"), ("#b58900", "#f0c24b"), ("#6a51a3", "#b9a5f2"),
    ("#4b6f00", "#a9cf4a"), ("#8c564b", "#d7a497"),
)  # fmt: skip
_DASHES = {"fp32": [1, 0], "int8": [6, 3], "int4": [1, 0]}
_OTHER_DASHES = ([2, 2], [8, 3, 2, 3], [4, 2], [10, 4])


def tokens(series: tuple[Series, ...], *, dark: bool) -> dict[str, Any]:
    """Token -> colour for the page's own colours and for each of ``series`` (``$v_int4``)."""
    found: dict[str, Any] = {f"${name}": value for name, value in (DARK if dark else LIGHT).items()}
    others = [one.key for one in series if one.key not in _OWN]
    for one in series:
        pair = _OWN[one.key] if one.key in _OWN else _OTHERS[others.index(one.key) % len(_OTHERS)]
        found[f"$v_{one.key}"] = pair[dark]
    return found


def css_tokens(series: tuple[Series, ...]) -> dict[str, Any]:
    """Token -> CSS variable, for SVG inside the page."""
    return {token: f"var({css_name(token)})" for token in tokens(series, dark=False)}


def css_name(token: str) -> str:
    """``--v-int4`` of ``$v_int4``."""
    return "--" + token[1:].replace("v_", "v-", 1)


def css_values(values: Mapping[str, str]) -> str:
    """CSS variables with the colours of ``values``, by token."""
    return ";".join(f"{css_name(token)}:{value}" for token, value in values.items())


def signal_tokens() -> dict[str, Any]:
    """Token -> expression of the signal with its name, for canvas."""
    return {f"${name}": {"expr": f"c_{name}"} for name in LIGHT}


def distinct_colours(count: int) -> list[str]:
    """``count`` distinct colours for light paper, starting with the default variants' and repeating after the last."""
    colours = [_OWN["int8"][0], _OWN["int4"][0], *(light for light, _ in _OTHERS)]
    return [colours[index % len(colours)] for index in range(count)]


def signal_params(*, dark: bool) -> dict[str, str]:
    """Values of those signals."""
    return {f"c_{name}": value for name, value in (DARK if dark else LIGHT).items()}


def dash(key: str, series: tuple[Series, ...]) -> list[int]:
    """Dash pattern of a variant's line."""
    others = [one.key for one in series if one.key not in _OWN]
    return _DASHES[key] if key in _DASHES else _OTHER_DASHES[others.index(key) % len(_OTHER_DASHES)]


class Quoted(str):
    """A string from outside (the name of a suite), which is never a token."""

    __slots__ = ()


def paint(spec: Any, values: Mapping[str, Any]) -> Any:
    """``spec`` with every string that starts with ``$`` replaced by its value (``KeyError`` without one)."""
    if isinstance(spec, Quoted):
        return str(spec)
    if isinstance(spec, str):
        return values[spec] if spec.startswith("$") else spec
    if isinstance(spec, dict):
        return {key: paint(value, values) for key, value in spec.items()}
    if isinstance(spec, list):
        return [paint(value, values) for value in spec]
    return spec


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Vega-Lite config that every chart shares."""
    font = (
        "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', sans-serif"
    )
    wanted = {
        "background": None, "font": font, "aria": False, "padding": 0,
        "view": {"stroke": None},
        "axis": {
            "labelColor": "$soft", "labelFontSize": 11, "titleColor": "$soft", "titleFontSize": 11,
            "titleFontWeight": "normal", "domain": False, "tickColor": "$line", "tickSize": 4,
            "labelPadding": 4, "gridColor": "$grid", "gridWidth": 1,
        },
        "axisY": {"minExtent": 46, "maxExtent": 46, "ticks": False},
        "axisX": {"grid": False, "domain": True, "domainColor": "$faint", "labelFlush": True},
        "legend": {"labelColor": "$ink", "labelFontSize": 12, "titleColor": "$soft", "titleFontSize": 11,
                   "titleFontWeight": "normal"},
        "title": {"color": "$ink", "subtitleColor": "$soft", "fontSize": 13, "subtitleFontSize": 11,
                  "anchor": "start", "frame": "group", "offset": 6, "fontWeight": 600},
        "line": {"strokeWidth": 1.8, "strokeJoin": "round"},
        "text": {"fontSize": 11},
    }  # fmt: skip
    painted: dict[str, Any] = paint(wanted, values)
    return painted
