"""The charts as PNG and SVG, with the text and tables around them, as a page or as a section of one.

No browser and no script draws them: the SVG takes its colours from the page's palette.
"""

from __future__ import annotations

import polars as pl

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.forks.fork_words import compared_phases
from pipeline.base.english import counted
from pipeline.report.assets import asset, plain_page
from pipeline.report.fork.charts import Spec, forest_spec, runs_spec, wins_spec
from pipeline.report.fork.tables import averages_html, comparison_html, facts_html
from pipeline.report.html_text import esc
from pipeline.report.render import figure_png, figure_svg
from pipeline.report.theme import css_name, css_values, tokens

_OWN = {"fork-a": ("#d55e00", "#ff9043"), "fork-b": ("#0072b2", "#56b4e9")}
"""Colours of these charts only, light and dark; the others are the report's."""

CAPTIONS = {
    "fork_runs": (
        "Learning rate and gap",
        "Thin lines are runs, the thick line their mean with its 95 % interval over runs; dashed: the mean of the "
        "baseline. Shaded: raised or still ramping learning rates.",
    ),
    "fork_forest": (
        "Differences from the baseline",
        "Over the run, at matched probes{compared}. Thick: 95 % intervals over the order "
        "of the training text alone, seed by seed; thin: with the choice of the evaluation text as well.",
    ),
    "fork_wins": (
        "Wins",
        "Pairs of one run of each arm; the lower mean gap at their common probes wins, a diverged run loses. Runs that "
        "repeat another number for number are one.",
    ),
}
"""Chart -> heading and note; ``{compared}`` = the compared phases by schedule."""


def fork_figures(table: pl.DataFrame, report: ForkReport) -> dict[str, bytes]:
    """File name -> PNG (light, 2x): ``fork_runs.png`` and, if arms are compared, ``fork_forest`` and ``fork_wins``."""
    values = _tokens(dark=False)
    return {f"{name}.png": figure_png(spec, values) for name, spec in _specs(table, report).items()}


def fork_section(table: pl.DataFrame, report: ForkReport) -> str:
    """The experiment as an HTML section in the classes of the report's style sheet."""
    compared = compared_phases(report.findings)
    figures = "".join(_figure(name, spec, compared) for name, spec in _specs(table, report).items())
    words = "".join(f"<p>{esc(sentence)}</p>" for sentence in report.sentences)
    rule = f"{counted(report.findings.n_runs, 'run')} from step {report.from_step:,}: {report.start_rule}."
    missing = report.missing
    lacking = f"{counted(len(missing), 'run', are=True)} missing: {', '.join(missing)}"
    warning = f'<p class="warning" role="alert">{esc(lacking)}</p>' if missing else ""
    return (
        f'<section id="fork" aria-labelledby="h-fork">{warning}<h2 id="h-fork">The fork experiment</h2>'
        f'<p class="note">{esc(rule)}</p><div class="fork-words">{words}</div>{figures}{comparison_html(report)}'
        f"{averages_html(report)}{facts_html(report)}</section>"
    )


def fork_page(table: pl.DataFrame, report: ForkReport) -> str:
    """The experiment as one self-contained page without script."""
    suite = esc(report.suite)
    header = f'<header><p class="eyebrow"><span>Schedules after the fork</span> <b>{suite}</b></p></header>'
    body = f"{header}\n<main>{fork_section(table, report)}</main>"
    light, dark = _tokens(dark=False), _tokens(dark=True)
    return plain_page(f"{suite}: schedules after the fork", body, light, dark, style=asset("fork.css"))


def fork_style() -> str:
    """The style that the report's page needs for :func:`fork_section`."""
    light, dark = (css_values(_own(dark=dark)) for dark in (False, True))
    return (
        f":root{{{light}}}\n:root[data-theme=dark]{{{dark}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        + asset("fork.css")
    )


def _specs(table: pl.DataFrame, report: ForkReport) -> dict[str, Spec]:
    if report.findings.variant is None:
        return {}
    specs = {"fork_runs": runs_spec(table, report)}
    if report.findings.comparisons:
        specs |= {"fork_forest": forest_spec(report), "fork_wins": wins_spec(report)}
    return specs


def _figure(name: str, spec: Spec, compared: str) -> str:
    """A chart as SVG whose colours are the page's CSS variables."""
    css = {token: f"var({css_name(token)})" for token in _tokens(dark=False)}
    drawn = figure_svg(spec, css, padding=8)  # fonts differ between machines
    title, note = CAPTIONS[name][0], CAPTIONS[name][1].format(compared=compared)
    return (
        f'<figure class="fork-chart" id="{name}"><figcaption><h3>{esc(title)}</h3><span class="note">{esc(note)}</span>'
        f'</figcaption><div class="scroll" tabindex="0" role="img" aria-label="{esc(title)}">{drawn}</div></figure>'
    )


def _tokens(*, dark: bool) -> dict[str, str]:
    return tokens((), dark=dark) | _own(dark=dark)


def _own(*, dark: bool) -> dict[str, str]:
    return {f"${name}": pair[dark] for name, pair in _OWN.items()}
