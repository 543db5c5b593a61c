"""What the paper reports, and the same of the suites here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from tests.evidence.findings_file import SCHEDULES, TEXT, Finding, Source, derived

AUDITED = (
    *(f"schedules/{name}-seed{seed}" for name in SCHEDULES for seed in (0, 1)),
    "sweeps/suite",
    "grids",
    "overtrained",
    *(f"methods/{name}" for name in SCHEDULES),
    *(f"methods/second/{name}" for name in SCHEDULES),
)
"""Suites with a report."""

TEXT_TOKENS = 78.4e6
"""Tokens of the training text, as RUNS.md has them."""

PAPER = "arXiv 2604.15167, abstract"


def settings(reference: Path) -> Iterator[Finding]:
    for name, layers, width in (("smallest", 2, 64), ("largest", 4, 128)):
        how = f"12 x {layers} layers x {width}^2"
        value = 12 * layers * width**2 / 1e6
        yield derived(
            f"models.{name}",
            "Parameters beside the embeddings",
            value,
            how=how,
            source="RUNS.md",
            unit="M",
            form=".1f",
        )
    yield derived(
        "text",
        "Tokens of the training text",
        TEXT_TOKENS / 1e6,
        how="stated",
        source="RUNS.md",
        unit="M",
        form=".0f",
    )
    for name, suite in (("fewest", "grids"), ("most", "overtrained")):
        table = f"{suite}/tables/trajectory.parquet"
        seen: Any = pl.read_parquet(reference / table)["tokens_seen"].max()
        how = f"largest tokens_seen over {TEXT_TOKENS:.4g} tokens"
        yield derived(
            f"passes.{name}",
            "Passes over the text",
            seen / TEXT_TOKENS,
            how=how,
            source=table,
            unit="",
            form=".0f",
        )
    for name, value, unit in (
        ("first", 0.11, "%"),
        ("last", 5.17, "%"),
        ("oli", 2.2, "points"),
        ("sgdr.wins", 0, "count"),
        ("sgdr.pairs", 9, "count"),
    ):
        form = {"%": ".0f", "points": ".1f"}.get(unit, "d")
        yield derived(
            f"paper.{name}",
            "What the paper reports",
            value,
            how="as reported",
            source=PAPER,
            unit=unit,
            form=form,
        )


def audited(reference: Path) -> Iterator[Finding]:
    reports = {name: json.loads((reference / name / "report.json").read_text()) for name in AUDITED}

    def count(id: str, question: str, key: str) -> Finding:  # noqa: A002
        value = sum(report[key] is not None for report in reports.values())
        how = f"suites whose {key} is not null"
        return derived(
            id,
            question,
            value,
            how=how,
            source="*/report.json",
            unit="count",
            form="d",
            trainings=len(reports),
        )

    yield derived(
        "suites",
        "Suites with a report",
        len(reports),
        how="counted",
        source="*/report.json",
        unit="count",
        form="d",
        trainings=len(reports),
    )
    yield count("onsets", "Suites with an onset beyond a response to the learning rate", "onset_step")
    yield count("converged", "Suites in which full precision converges", "convergence_step")
    converged = Source(reference, "schedules/constant-seed1/report.json")
    step, ends = converged.content["convergence_step"], converged.content["convergence_ci"]
    text = f"{step:,} [{ends[0]:,}, {ends[1]:,}]"
    yield Finding(
        "convergence.step",
        "Step at which full precision converges, constant, seed 1",
        step,
        *ends,
        "step",
        "checkpoints and text",
        1,
        converged.path,
        ["convergence_step"],
        text,
    )
    yield converged.finding(
        "convergence.share",
        "Resampled curves that converge, constant, seed 1",
        ["convergence_share"],
        unit="%",
        form=".0f",
    )
    far = Source(reference, "overtrained/comparison.json")
    pick = ["found", {"variant": "int4"}]
    yield far.finding(
        "overtrained.end",
        "Largest late gap: the smallest model, trained far",
        [*pick, "end"],
        unit="%",
        form=".1f",
        interval=TEXT,
    )
    yield far.finding(
        "overtrained.growth", "Its growth over the second half", [*pick, "growth"], interval=TEXT
    )
    int8 = max(report["int8_gap_max"] for report in reports.values() if report["int8_gap_max"] is not None)
    yield derived(
        "int8.largest",
        "Largest INT8 gap of any checkpoint of any suite",
        int8,
        how="largest int8_gap_max",
        source="*/report.json",
        unit="%",
        form=".2f",
        trainings=len(reports),
    )
    for name in ("wsd-seed0", "wsd-seed1", "cosine-seed0", "cosine-seed1"):
        report = Source(reference, f"schedules/{name}/report.json")
        question = f"Growth of the gap per halving of the rate, {name}"
        yield report.finding(f"dose.{name}", question, ["dose"], unit="points", interval=TEXT)
    for name in (
        *(f"schedules/{name}-seed{seed}" for name in SCHEDULES for seed in (0, 1)),
        "sweeps/suite",
        "overtrained",
    ):
        report = Source(reference, f"{name}/report.json")
        short = name.split("/")[-1]
        yield report.finding(
            f"kappa.{short}",
            f"Growth of damage per squared relative error from half way to the end, {short}",
            ["square_law", "growth"],
            interval="text",
        )
        yield report.finding(
            f"kappa.{short}.end",
            f"Damage per squared relative error at the end, {short}",
            ["square_law", "end", "kappa"],
            unit="",
            form=".1f",
        )
