"""Assemble the page: template, style, script, charts and data in one file that loads nothing.

A content security policy inside the page forbids every request and every script but the page's own (by
hash), so that an unescaped name could still do nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from string import Template

import vl_convert

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.mechanism.control_losses import FACTORS
from pipeline.measurements import unvaried_columns
from pipeline.report import curve_charts as curves
from pipeline.report import places, sections
from pipeline.report.assets import asset
from pipeline.report.axes import VL_VERSION, Spec, shared_data, step_params, step_tokens
from pipeline.report.columns import chart_columns, diverged_points
from pipeline.report.curve_charts import damage_scale, variant_scale
from pipeline.report.frame import Frame
from pipeline.report.heatmap import HeatMap, heat_spec, side_data
from pipeline.report.html_text import esc, json_for_script
from pipeline.report.mechanism_section import mechanism_html, swap_html
from pipeline.report.panels import Panel, damage_note, make_panels, measures
from pipeline.report.table import table_html
from pipeline.report.theme import config, css_tokens, css_values, paint, signal_params, signal_tokens, tokens
from pipeline.report.timeline import timeline_data
from pipeline.report.verdict import make_verdict

SCRIPTS = ("state.js", "draw.js", "readout.js", "zoom.js", "heat.js", "table.js", "start.js")


def page_html(
    frame: Frame, heat: HeatMap | None, report: AuditReport, *, fork: str = "", fork_style: str = ""
) -> str:
    """The whole report; ``fork``: the section of a fork experiment, and its style."""
    shared = {**shared_data(report), "events": timeline_data(report)}
    panels = make_panels(frame, len(shared["events"]))
    verdict = make_verdict(report)
    script = "(() => {\n'use strict';\n" + "\n".join(asset(name) for name in SCRIPTS) + "\n})();"
    library = vega_bundle()
    return Template(asset("page.html")).substitute(
        policy=_policy(library, script),
        suite=esc(report.suite),
        description=esc(verdict.headline),
        style=_style(frame) + asset("report.css") + fork_style,
        fork=fork,
        warning=f'<p class="warning" role="alert">{esc(verdict.warning)}</p>' if verdict.warning else "",
        verdict=sections.verdict_html(verdict),
        tiles=sections.tiles_html(report, frame),
        legend=places.legend_html(frame),
        chip=places.chip_width(frame),
        measures="".join(f'<option value="{one.name}">{esc(one.label)}</option>' for one in measures(frame)),
        panels="".join(places.panel_html(panel) for panel in panels),
        nodamage="" if measures(frame) else " hidden",
        events=sections.events_html(report.summary),
        why=("" if frame.mechanism is None else mechanism_html(frame.mechanism))
        + swap_html(report.swap or (), report.variants),
        heat=places.heat_html(heat, frame),
        table=table_html(frame),
        problems=sections.problems_html(report),
        provenance=sections.provenance_html(report),
        data=json_for_script(_payload(frame, heat, panels, shared)),
        library=library,
        script=script,
    )


@functools.cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script (0.9 MB), from the copy inside vl-convert."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;", vl_version=VL_VERSION)
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _payload(frame: Frame, heat: HeatMap | None, panels: tuple[Panel, ...], shared: Spec) -> Spec:
    """The data for the page's script."""
    columns = chart_columns(frame)
    if frame.has("duplicate_of"):
        columns["duplicate_of"] = frame.rows["duplicate_of"].to_list()
    css = css_tokens(frame.series)
    return {
        "columns": columns,
        "diverged": diverged_points(frame),
        "shared": shared,
        "params": {param["name"]: param["value"] for param in step_params(frame)},
        "tokens": {**css, "$vscale": paint(variant_scale(frame), css), "$legend": None},
        "config": config(css),
        "steps": {kind: step_tokens(kind, frame) for kind in ("linear", "symlog")},
        "damage": {
            kind: {
                one.name: dict(
                    zip(("$damagescale", "$damageaxis"), damage_scale(kind, one, frame), strict=True)
                )
                for one in curves.measures()
            }
            for kind in ("log", "linear")
        },
        "notes": {one.name: damage_note(frame, one) for one in curves.measures()},
        "written": {one.name: one.written for one in curves.measures()},
        "unvaried": [
            {"name": one.name, "label": (one.heading or one.label).lower(), "written": one.written}
            for one in unvaried_columns()
        ]
        + [
            {"name": f"factor_{name}", "label": f"{name.replace('_', ' ')} \u00d7", "written": "short"}
            for name in FACTORS
            if frame.has(f"factor_{name}")
        ],
        "panels": [{"name": panel.name, "spec": panel.spec, "choices": panel.choices} for panel in panels],
        "series": [{"key": one.key, "label": one.label} for one in frame.series],
        "heat": _heat_payload(heat, frame),
    }


def _heat_payload(heat: HeatMap | None, frame: Frame) -> Spec | None:
    if heat is None:
        return None
    spec = heat_spec(heat, frame)
    params = signal_params(dark=False)
    spec["params"] += [{"name": name, "value": value} for name, value in params.items()]
    return {
        "spec": spec,
        "tokens": signal_tokens(),
        "config": config(signal_tokens()),
        "themes": {"light": params, "dark": signal_params(dark=True)},
        "rows": [[row.name, row.y, row.y2] for row in heat.rows],
        "steps": heat.steps,
        "edges": heat.edges,
        "values": {variant: heat.packed(variant) for variant in heat.values},
        **side_data(heat),
    }


def _style(frame: Frame) -> str:
    """The palette as CSS variables; the system's colour scheme, unless the reader chooses one."""

    def block(dark: bool) -> str:
        return f"color-scheme:{'dark' if dark else 'light'};{css_values(tokens(frame.series, dark=dark))}"

    return (
        f":root{{{block(False)}}}\n:root[data-theme=dark]{{{block(True)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{block(True)}}}}}\n"
        f"@media print{{:root:root{{{block(False)}}}}}\n"
    )


def _policy(*scripts: str) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts
    )
    # Vega compiles its expressions with Function(), hence unsafe-eval; nothing can be fetched in any case.
    return f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
