"""Placeholders of the charts, and their legend, as escaped HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import Template

from pipeline.report.assets import asset
from pipeline.report.frame import Frame, Series
from pipeline.report.heatmap import HeatMap
from pipeline.report.html_text import esc
from pipeline.report.panels import Panel
from pipeline.report.theme import css_name, dash

AXIS_HEIGHT = 28
"""Height of the step axis below a plot, pixels."""
NAMES_HEIGHT = 20
"""Height of the phases' names above a plot, pixels."""
LEGEND_HEIGHT = 42
"""Height of the colour scale above the heat map, pixels."""


def panel_html(panel: Panel) -> str:
    """Heading, note and an empty plot of the right height, so that nothing moves when the chart is drawn."""
    extra = NAMES_HEIGHT if panel.name == "perplexity" else 0
    return (
        f'<figure class="panel" id="panel-{panel.name}"><figcaption><h3>{esc(panel.title)}</h3>'
        f'<span class="note" data-note="{panel.name}">{esc(panel.note)}</span>{_keys(panel)}</figcaption>'
        f'<div class="plot" data-panel="{panel.name}" style="height:{panel.height + AXIS_HEIGHT + extra}px" '
        f'role="slider" tabindex="0" aria-label="{esc(panel.title)} by training step" aria-valuemin="0" '
        'aria-valuenow="0" aria-valuemax="0"></div></figure>'
    )


def _keys(panel: Panel) -> str:
    """Legend of the lines of a chart."""
    keys = "".join(
        f'<span><svg width="26" height="8" aria-hidden="true"><line x1="0" x2="26" y1="4" y2="4" '
        f'stroke="var({css_name(key.colour)})" stroke-dasharray="{" ".join(map(str, key.dash))}" '
        f'stroke-width="2"/></svg>{esc(key.label)}</span>'
        for key in panel.keys
    )
    return f'<span class="keys">{keys}</span>' if keys else ""


def legend_html(frame: Frame) -> str:
    """One button per variant: legend, current values and switch in one; the methods of a grid stand together."""
    if not any(one.method for one in frame.series):
        return "".join(_chip(one, frame) for one in frame.series)
    groups = []
    for grid, series in by_grid(frame.series).items():
        chips = "".join(_chip(one, frame) for one in series)
        groups.append(
            f'<div class="chips grid" role="group" aria-label="{esc(grid)}"><span class="note">{esc(grid)}</span>'
            f"{chips}</div>"
        )
    return "".join(groups)


def by_grid(series: Sequence[Series]) -> dict[str, list[Series]]:
    """``series`` by the grid that they share, which is named as in --variant, in the order of its first one."""
    groups: dict[str, list[Series]] = {}
    for one in series:
        groups.setdefault(one.grid, []).append(one)
    return groups


def _chip(series: Series, frame: Frame) -> str:
    pattern = " ".join(map(str, dash(series.key, frame.series)))
    return (
        f'<button type="button" class="chip" aria-pressed="true" data-v="{esc(series.key)}" '
        f'title="{esc(series.spec)}" style="--of:var(--v-{esc(series.key)})">'
        f'<svg width="22" height="8" aria-hidden="true"><line x1="0" x2="22" y1="4" y2="4" '
        f'stroke-dasharray="{pattern}"/></svg><b>{esc(series.label)}</b>'
        '<span class="value"><span class="ppl"></span><span class="gap"></span></span></button>'
    )


def chip_width(frame: Frame) -> int:
    """Width of a legend button for the longest label and its values, pixels."""
    return 210 + 9 * max((len(one.label) for one in frame.series), default=0)


def heat_html(heat: HeatMap | None, frame: Frame) -> str:
    """The section of the heat map; empty without one."""
    if heat is None:
        return ""
    options = _options(heat.values, frame)
    thinned = f" Every {heat.every}th checkpoint is drawn." if heat.every > 1 else ""
    return Template(asset("heat.html")).substitute(
        options=options, thinned=thinned, height=heat.height + LEGEND_HEIGHT + AXIS_HEIGHT
    )


def _options(variants: Iterable[str], frame: Frame) -> str:
    """The variants of a menu, under the grids that they share where a method was measured."""
    known = {one.spec: one for one in frame.series}
    shown = [known.get(name) or Series(name, name, name, name) for name in variants]
    if not any(one.method for one in shown):
        return "".join(f"<option>{esc(one.spec)}</option>" for one in shown)
    return "".join(
        f'<optgroup label="{esc(grid)}">{"".join(f"<option>{esc(one.spec)}</option>" for one in series)}</optgroup>'
        for grid, series in by_grid(shown).items()
    )
