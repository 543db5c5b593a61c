"""The charts as PNG and as SVG, and the words and tables around them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import polars as pl
import vl_convert

from pipeline.report.axes import VL_VERSION
from pipeline.report.fork.charts import Spec, forest_spec, runs_spec, wins_spec
from pipeline.report.fork.tables import comparison_html, facts_html
from pipeline.report.text import esc
from pipeline.report.theme import DARK, LIGHT, config, paint

SCALE = 2.0
_VARIANTS = {"v_int4": ("#d55e00", "#ff9043"), "v_int8": ("#0072b2", "#56b4e9")}

CAPTIONS = {
    "fork_runs": (
        "Learning rate and gap",
        "Thin lines are runs, the thick line their mean with its 95 % interval over runs; dashed: the mean of the "
        "baseline. Shaded: raised or still ramping learning rates.",
    ),
    "fork_forest": (
        "Differences to the baseline",
        "At matched probes, of OLI the settled cool ones; 95 % intervals over runs, the wider of Welch's and the "
        "bootstrap's.",
    ),
    "fork_wins": ("Wins", "Pairs of one run of each arm; the lower mean gap wins, a diverged run loses."),
}
"""Heading and note by chart."""


def fork_figures(table: pl.DataFrame, report: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> PNG (light, 2x): ``fork_runs.png``, of compared arms also ``fork_forest`` and ``fork_wins``."""
    values = _tokens(dark=False)
    found = {}
    for name, spec in _specs(table, report).items():
        whole = {
            **paint(spec, values),
            "config": {**config(values), "background": values["$paper"], "padding": 14},
        }
        found[f"{name}.png"] = vl_convert.vegalite_to_png(whole, vl_version=VL_VERSION, scale=SCALE)
    return found


def fork_section(table: pl.DataFrame, report: Mapping[str, Any]) -> str:
    """The experiment as an HTML section in the classes of the report's style sheet."""
    figures = "".join(_figure(name, spec) for name, spec in _specs(table, report).items())
    words = "".join(f"<p>{esc(sentence)}</p>" for sentence in report["sentences"])
    rule = f"{report['n_runs']} runs from step {report['from_step']:,}: {report['start_rule']}."
    missing = report["missing"]
    warning = (
        f'<p class="warning" role="alert">{len(missing)} runs are missing: {esc(", ".join(missing))}</p>'
        if missing
        else ""
    )
    return (
        f'<section id="fork" aria-labelledby="h-fork">{warning}<h2 id="h-fork">The fork experiment</h2>'
        f'<p class="note">{esc(rule)}</p><div class="fork-words">{words}</div>{figures}{comparison_html(report)}'
        f"{facts_html(report)}</section>"
    )


def fork_page(table: pl.DataFrame, report: Mapping[str, Any]) -> str:
    """The experiment as one self-contained page without script."""
    style = _style() + _asset("report.css") + _asset("fork.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    suite = esc(report["suite"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{suite}: schedules after the fork</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><p class="eyebrow"><span>Schedules after the fork</span> <b>{suite}</b></p></header>\n'
        f"<main>{fork_section(table, report)}</main>\n</body>\n</html>\n"
    )


def fork_style() -> str:
    """What a page needs beside the report's own style sheet to show :func:`fork_section`."""
    return _asset("fork.css")


def _specs(table: pl.DataFrame, report: Mapping[str, Any]) -> dict[str, Spec]:
    if report["variant"] is None:
        return {}
    specs = {"fork_runs": runs_spec(table, report)}
    if report["comparisons"]:
        specs |= {"fork_forest": forest_spec(report), "fork_wins": wins_spec(report)}
    return specs


def _figure(name: str, spec: Spec) -> str:
    """A chart as SVG whose colours are the page's CSS variables."""
    css = {token: f"var(--{token[1:].replace('v_', 'v-')})" for token in _tokens(dark=False)}
    whole = {**paint(spec, css), "config": {**config(css), "padding": 8}}  # fonts differ between machines
    svg: str = vl_convert.vegalite_to_svg(whole, vl_version=VL_VERSION)
    title, note = CAPTIONS[name]
    return (
        f'<figure class="fork-chart" id="{name}"><figcaption><h3>{esc(title)}</h3><span class="note">{esc(note)}</span>'
        f'</figcaption><div class="scroll" tabindex="0" role="img" aria-label="{esc(title)}">{svg}</div></figure>'
    )


def _tokens(*, dark: bool) -> dict[str, str]:
    own = {f"$v_{name[2:]}": pair[dark] for name, pair in _VARIANTS.items()}
    return {**{f"${name}": value for name, value in (DARK if dark else LIGHT).items()}, **own}


def _style() -> str:
    def block(*, dark: bool) -> str:
        named = (f"--{token[1:].replace('v_', 'v-')}:{value}" for token, value in _tokens(dark=dark).items())
        return f"color-scheme:{'dark' if dark else 'light'};" + ";".join(named)

    return (
        f":root{{{block(dark=False)}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{block(dark=True)}}}}}\n"
    )


def _asset(name: str) -> str:
    return (resources.files("pipeline.report") / "static" / name).read_text(encoding="utf-8")
