"""The report in a real browser: drawn, linked, sortable, readable on a phone, and silent on the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.report import synthetic
from tests.report.devtools import Browser

Make = Callable[..., Path]

PANELS = ["events", "perplexity", "damage", "learning_rate", "kurtosis", "heat"]
PLOTS = "[...document.querySelectorAll('.plot')].map(plot => plot.dataset.panel)"
UNDRAWN = (
    "[...document.querySelectorAll('.plot')].filter(plot => !plot.querySelector('svg path, canvas')).length"
)
CHOOSE = "(s => {s.value = '%s'; s.dispatchEvent(new Event('change'))})(document.querySelector('%s'))"
OVERFULL = """[...document.querySelectorAll('.plot')].filter(plot => {
  const drawn = plot.querySelector('svg, canvas').getBoundingClientRect();
  return drawn.height > plot.clientHeight || drawn.width > plot.clientWidth;
}).map(plot => plot.dataset.panel)"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_every_chart_is_drawn_and_nothing_overflows(
    browser: Browser, make_page: Make, width: int, dark: bool
) -> None:
    page = make_page()
    browser.open(page, width=width, dark=dark)
    assert browser.js(PLOTS) == PANELS
    assert browser.js(UNDRAWN) == 0
    assert browser.js(OVERFULL) == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.problems == []
    assert browser.requests == [page.resolve().as_uri()]


def test_colours_follow_the_system_while_the_page_is_open(browser: Browser, make_page: Make) -> None:
    browser.open(make_page(), dark=False)
    ink = "getComputedStyle(document.querySelector('[data-panel=damage] .role-axis-label text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    light = browser.js(f"[{ink}, {paper}]")
    browser.prefer(dark=True)
    browser.frame()
    dark = browser.js(f"[{ink}, {paper}]")
    assert light[0] != dark[0]
    assert light[1] == "rgb(255, 255, 255)" != dark[1]


def test_a_click_on_a_heading_sorts_both_ways(browser: Browser, make_page: Make) -> None:
    trajectory = synthetic.trajectory()
    browser.open(make_page(trajectory))
    click = "document.querySelector('[data-c=int4_gap]').click()"
    first = "document.querySelector('#checkpoints tbody tr th').textContent.replace(',', '')"
    ordered = trajectory.sort("int4_gap")["step"].to_list()
    browser.js(click)
    assert browser.js(first) == str(ordered[0])
    browser.js(click)
    assert browser.js(first) == str(ordered[-1])
    assert browser.js("document.querySelector('[data-c=int4_gap]').closest('th').ariaSort") == "descending"


@pytest.mark.parametrize(
    ("words", "expected"), [("900..920", 3), ("phase:3", 54), ("nothing like this", 0), ("", 103)]
)
def test_the_table_is_filtered(browser: Browser, make_page: Make, words: str, expected: int) -> None:
    browser.open(make_page())
    browser.js(
        f"(i => {{i.value = '{words}'; i.dispatchEvent(new Event('input'))}})(document.querySelector('#filter'))"
    )
    assert browser.js("document.querySelectorAll('#checkpoints tbody tr:not([hidden])').length") == expected


def test_keys_move_through_checkpoints_and_zoom_all_charts(browser: Browser, make_page: Make) -> None:
    browser.open(make_page())
    press = "document.querySelector('[data-panel=damage]').dispatchEvent(new KeyboardEvent('keydown', {key: '%s'}))"
    for key in ("Home", "ArrowRight", "ArrowRight"):
        browser.js(press % key)
    browser.frame()
    assert browser.js("document.querySelector('#where b').textContent") == "Step 2"
    assert browser.js("document.querySelector('[data-panel=kurtosis]').ariaValueNow") == "2"
    axis = (
        "[...document.querySelectorAll('[data-panel=%s] svg text')].map(one => one.textContent).sort().join()"
    )
    before = browser.js(axis % "kurtosis")
    browser.js(press % "+")
    browser.frame()
    assert browser.js(axis % "kurtosis") != before
    browser.js(press % "0")
    browser.frame()
    assert browser.js(axis % "kurtosis") == before


def test_dragging_across_one_chart_zooms_the_others(browser: Browser, make_page: Make) -> None:
    browser.open(make_page())
    browser.js(
        "document.querySelector('[data-panel=damage]').scrollIntoView({behavior: 'instant', block: 'center'})"
    )
    box = browser.js(
        "(r => [r.left, r.top, r.width])(document.querySelector('[data-panel=damage]').getBoundingClientRect())"
    )
    mouse = {"y": box[1] + 40, "button": "left", "clickCount": 1}
    for kind, share in (("mousePressed", 0.6), ("mouseMoved", 0.7), ("mouseReleased", 0.8)):
        browser.call("Input.dispatchMouseEvent", type=kind, x=box[0] + share * box[2], **mouse)
    browser.frame()
    labels = browser.js("document.querySelector('[data-panel=learning_rate] .role-axis-label').textContent")
    assert labels.startswith(("8", "9"))


def test_controls_redraw_without_errors(browser: Browser, make_page: Make) -> None:
    trajectory = synthetic.trajectory(variants=("int8", "int4", "int3_g64_sym"))
    browser.open(make_page(trajectory))
    for step in (
        "document.querySelector('[data-to=symlog]').click()",
        "document.querySelector('[data-set=dkind] [data-to=linear]').click()",
        "document.querySelector('[data-v=int3_g64_sym]').click()",
        CHOOSE % ("kl_nats_p99", "#measure"),
        CHOOSE % ("int8-channel-sym", "#heat-variant"),
        "document.querySelector('#theme').click()",
        "dispatchEvent(new Event('beforeprint'))",
        "dispatchEvent(new Event('afterprint'))",
    ):
        browser.js(step)
        browser.frame()
        assert browser.js(UNDRAWN) == 0
    assert browser.js(OVERFULL) == []
    assert browser.problems == []
    lines = "document.querySelectorAll('[data-panel=damage] .mark-line path').length"
    assert browser.js(lines) == 2


def test_panels_without_data_are_left_out(browser: Browser, make_page: Make) -> None:
    columns = ["step", "fp32_nll_nats", "int4_nll_nats", "tokens_seen"]
    bare = synthetic.trajectory().select(columns).with_columns(tokens_seen=pl.lit(None, pl.Int64))
    none = dict.fromkeys(("predictors", "kurtosis_test", "convergence_step", "onset_step"))
    browser.open(
        make_page(bare[:10], pl.DataFrame(), phases=[], verdict=[], onset_evidence=None, versions={}, **none)
    )
    assert browser.js(PLOTS) == ["perplexity", "damage"]
    assert browser.js(UNDRAWN) == 0
    assert browser.problems == []


def test_a_trajectory_of_one_fp32_checkpoint_opens(browser: Browser, make_page: Make) -> None:
    one = synthetic.trajectory([0], variants=())
    browser.open(make_page(one, phases=[], predictors=None, convergence_step=None, onset_step=None))
    assert browser.js(PLOTS)[0] == "perplexity"
    assert browser.js(UNDRAWN) == 0
    assert browser.problems == []


def test_diverged_is_a_cross_and_missing_is_a_hole(browser: Browser, make_page: Make) -> None:
    broken = [math.nan if step == 1000 else None if step == 1100 else 2.0 for step in synthetic.steps()]
    nothing = [None if value is None else value - 1.9 for value in broken]
    trajectory = synthetic.trajectory().with_columns(
        int4_nll_nats=pl.Series(broken), int4_perplexity=pl.Series(broken), int4_gap=pl.Series(nothing)
    )
    browser.open(make_page(trajectory))
    line = browser.js(
        "document.querySelector('[data-panel=damage] .mark-line path[stroke*=v-int4]').getAttribute('d')"
    )
    assert line.count("M") == 3
    row = "document.querySelector('#checkpoints tr[data-i=\"%d\"]').textContent"
    at = synthetic.steps().index
    assert "diverged" in browser.js(row % at(1000))
    assert "diverged" not in browser.js(row % at(1100))
    browser.js("document.querySelector('#filter').value = 'diverged'")
    browser.js("document.querySelector('#filter').dispatchEvent(new Event('input'))")
    assert browser.js("document.querySelectorAll('#checkpoints tbody tr:not([hidden])').length") == 1


def test_a_missing_checkpoint_interrupts_every_line(browser: Browser, make_page: Make) -> None:
    trajectory = synthetic.trajectory().filter(pl.col("step") != 1000)
    browser.open(make_page(trajectory, missing=["step000001000"]))
    assert browser.js("document.body.innerText.trimStart().split('\\n')[0]").startswith(
        "Incomplete: 1 expected"
    )
    lines = "[...document.querySelectorAll('[data-panel=damage] .mark-line path')].map(one => one.getAttribute('d'))"
    assert [line.count("M") for line in browser.js(lines)] == [2, 2]


def test_hostile_names_do_nothing(browser: Browser, make_page: Make) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    trajectory = synthetic.trajectory()
    trajectory = trajectory.with_columns(
        duplicate_of=pl.when(pl.col("step") == 4).then(pl.lit(evil)).otherwise(None)
    )
    tensors = synthetic.tensors(trajectory["step"].to_list())
    tensors = tensors.with_columns(pl.col("name") + f".{evil}")
    page = make_page(
        trajectory,
        tensors,
        suite=evil,
        failures={evil: evil},
        duplicates={evil: evil},
        verdict=[evil],
        missing=[evil],
        versions={evil: evil},
        predictors={"events": [{"event": evil, "step": 3, "reason": evil}]},
    )
    browser.open(page)
    assert browser.problems == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert browser.js("document.querySelectorAll('script').length") == 3
    assert evil in browser.js("document.body.innerText")
