"""Figures and page of a fork experiment: they are drawn, they escape what they show, they load nothing."""

import math
import re
from dataclasses import replace

import pytest

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.forks.fork_reduce import compare_arms
from pipeline.analysis.forks.fork_words import sentences
from pipeline.analysis.statistics.contrasts import Estimate
from pipeline.report.fork.charts import title_lines
from pipeline.report.fork.fork_page import fork_figures, fork_page
from tests.analysis.forks.test_fork_reduce import experiment

EVIL = "<script>alert(1)</script>"


PARAMETERS = {
    "cosine": {"final": 0.1},
    "sgdr": {"eta_max": 4e-3, "final": 0.1, "period": 10.0, "t_mult": 1.0},
    "oli": {"final": 0.1, "period": 20.0, "amplitude": 0.3, "bump_fraction": 0.5, "cool_factor": 0.5,
            "settled_fraction": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs():
    table = experiment()
    findings = compare_arms(table)
    arms = {
        arm: replace(facts, parameters=PARAMETERS[arm], mean_learning_rate=4.717e-4 if arm == "oli" else None)
        for arm, facts in findings.arms.items()
    }
    rates = {"base_lr": 1e-3, "peak_lr": 4e-3, "steps": 40, "rewarm_steps": 4}
    report = ForkReport(
        suite=f"suite {EVIL}",
        from_step=1200,
        start_rule="step 1,200 was asked for",
        findings=replace(findings, arms=arms),
        sentences=sentences(findings),
        failures={},
        missing=(),
        notes=(EVIL,),
        corpus="docstrings",
        train_corpus="docstrings",
        config={"rates": rates, "precision": "fp32"},
        fingerprint="",
        wall_s=1.0,
        versions={},
    )
    return table, report


def test_three_figures_are_drawn(inputs):
    figures = fork_figures(*inputs)
    assert list(figures) == ["fork_runs.png", "fork_forest.png", "fork_wins.png"]
    assert all(png.startswith(b"\x89PNG") and len(png) > 5000 for png in figures.values())


def test_the_page_holds_words_charts_and_numbers_and_nothing_foreign(inputs):
    table, report = inputs
    page = fork_page(table, replace(report, missing=("oli-seed3",)))
    assert page.count("<svg") == 3
    assert all(arm in page for arm in ("cosine", "sgdr", "oli"))
    assert "oli lowers the INT4 gap by 3.00 points" in page
    assert "At its last settled probe (update 40)" in page
    assert "Averaged against live weights of the same runs" in page
    assert "settled_fraction 0.5; mean rate 0.000472; 4 runs" in page
    assert "1 run is missing: oli-seed3" in page
    assert "<script" not in page
    assert EVIL.replace("<", "&lt;").replace(">", "&gt;") in page
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert all(link.startswith("#") for link in links)
    colours = set(re.findall(r"var\((--[a-z0-9-]+)\)", page))
    defined = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert colours <= defined | {"--chip", "--of"}


def test_an_experiment_whose_other_arms_all_diverged_is_drawn_too(inputs):
    table, report = inputs
    gone = Estimate(math.nan)
    nothing = tuple(
        replace(row, over_run=replace(row.over_run, gap_points=gone)) for row in report.findings.comparisons
    )
    figures = fork_figures(table, replace(report, findings=replace(report.findings, comparisons=nothing)))
    assert set(figures) == {"fork_runs.png", "fork_forest.png", "fork_wins.png"}


def test_long_names_of_arms_are_told_whole():
    arm = "oli-amplitude0.1-bump_fraction0.909-mean_factor1e-05"
    assert title_lines(arm) == ["oli amplitude0.1", "bump_fraction0.909", "mean_factor1e-05"]
    assert title_lines("cosine") == ["cosine"]
