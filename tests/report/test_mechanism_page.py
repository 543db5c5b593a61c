"""The mechanism on the page and in the figures: what is said, drawn and left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.compared_runs import RunFactors, factors_of_runs
from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.trace_check import TraceCheck
from pipeline.base.typed_json import from_json, to_json
from pipeline.report import build_figures, build_report
from pipeline.report.comparison_page import comparison_page
from tests.analysis.trajectory.mechanisms import TrueGrowth, simulated_run
from tests.report.devtools import Browser
from tests.report.mechanism_runs import explained

OVERFULL = """[...document.querySelectorAll('.plot')].filter(plot => {
  const drawn = plot.querySelector('svg, canvas').getBoundingClientRect();
  return drawn.height > plot.clientHeight || drawn.width > plot.clientWidth;
}).map(plot => plot.dataset.panel)"""
NOTHING = pl.DataFrame()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_factors_and_the_waterfall_are_drawn(browser: Browser, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    trajectory, report = explained()
    page.write_text(build_report(trajectory, NOTHING, report))
    browser.open(page, width=width)
    panels = browser.js("[...document.querySelectorAll('.plot')].map(plot => plot.dataset.panel)")
    assert panels[:4] == ["perplexity", "damage", "factors", "parabola_share"]
    drawn = "document.querySelectorAll('[data-panel=factors] .mark-line path').length"
    assert browser.js(drawn) == 4
    assert browser.js(OVERFULL) == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    bars = browser.js("document.querySelectorAll('#why svg .mark-rect path').length")
    assert bars >= 5
    assert browser.js("document.querySelector('#why svg').getBoundingClientRect().width") <= width
    assert browser.problems == []
    words = browser.js("document.querySelector('#why').innerText")
    assert "sensitive" in words
    assert "2,100" in words  # the checkpoint whose controls are not finite


def test_figures_hold_the_factors_and_the_waterfall() -> None:
    trajectory, report = explained()
    found = build_figures(trajectory, NOTHING, report)
    assert {"factors.png", "parabola_share.png", "waterfall.png"} <= set(found)


def test_damage_that_did_not_grow_is_said_and_shown(make_page: Callable[..., Path]) -> None:
    trajectory, report = explained(TrueGrowth(), seed=1)
    html = build_report(trajectory, NOTHING, report)
    assert "did not clearly grow" in html
    assert "waterfall.png" in build_figures(trajectory, NOTHING, report)
    assert 'id="why"' not in make_page().read_text()


def test_the_trace_beside_noise_is_a_table() -> None:
    trajectory, report = explained()
    assert report.mechanism is not None
    check = TraceCheck(100, "fp32", "relative", 0.02, 0.012, 0.001, 0.0125, 0.002, -0.005, 0.004)
    apart = replace(check, variant="int4", noise="signs", share=1.0, difference_lower=0.001)
    mechanism = replace(report.mechanism, trace_checks=(check, apart))
    html = build_report(trajectory, NOTHING, replace(report, mechanism=mechanism))
    assert "within the errors of both in 1 of 2 comparisons at 1 step." in html
    assert "noise of 2 % of the weights" in html
    assert "error of INT4 with random signs" in html
    assert "Curvature against noise" not in build_report(trajectory, NOTHING, report)


def test_a_report_that_was_written_and_read_makes_the_same_page() -> None:
    trajectory, report = explained()
    again = from_json(AuditReport, json.loads(json.dumps(to_json(report), allow_nan=False)))
    assert build_report(trajectory, NOTHING, again) == build_report(trajectory, NOTHING, report)


EVIL = "<img src=x onerror=alert(1)>"


def two_runs() -> list[RunFactors]:
    measured = {
        "outputs/constant": [simulated_run(TrueGrowth(sensitivity=1.4), 1)],
        EVIL: [simulated_run(TrueGrowth(alignment=2.0), 2)],
        "outputs/short": [simulated_run(TrueGrowth(n_checkpoints=8), 3)],
    }
    return factors_of_runs(measured, ["int4"], Window(100, 2400), Window(5500, 6000))


@pytest.mark.parametrize("width", [1280, 390])
def test_runs_stand_side_by_side(browser: Browser, tmp_path: Path, width: int) -> None:
    page = tmp_path / "comparison.html"
    page.write_text(comparison_page(two_runs()))
    browser.open(page, width=width, scripted=False)
    assert browser.problems == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelectorAll('img').length") == 0
    heads = browser.js("[...document.querySelectorAll('thead th')].map(one => one.textContent)")
    assert heads[1:] == ["outputs/constant", EVIL, "outputs/short"]
    assert browser.js("document.querySelectorAll('.runs figure svg').length") == 2
    words = browser.js("document.body.innerText")
    assert "cause: sensitivity" in words
    assert "cause: alignment" in words
    assert "growth not split" in words
