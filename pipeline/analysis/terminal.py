"""Terminal tables of a reduction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.analysis.trajectory.trajectory_table import measured_variants
from pipeline.base.english import counted
from pipeline.runs.kind_of_work import TextTable
from pipeline.spec import ALIASES, variant_label

if TYPE_CHECKING:
    import polars as pl

    from pipeline.analysis.forks.fork_findings import ArmComparison, ForkReport

ROWS = 12
"""Largest number of checkpoints shown: evenly spread, including the first and the last."""
GAPS = 2
"""Largest number of variants that fit a terminal; int8 and int4 come first."""


def trajectory_text(trajectory: pl.DataFrame, names: Mapping[str, str]) -> TextTable:
    """Step, learning rate, FP32 perplexity, the gaps of the first variants, kurtosis and phase.

    ``names``: column prefix -> name of the variants.
    """
    measured = measured_variants(trajectory)
    shown = sorted(measured, key=lambda name: name not in ALIASES)[:GAPS]
    title = counted(trajectory.height, "checkpoint")
    if len(measured) > len(shown):
        title += f"; {len(shown)} of {len(measured)} variants, the others are in the tables"
    gaps = (f"{variant_label(name, names)} gap" for name in shown)
    heads = ("step", "learning rate", "FP32 perplexity", *gaps)
    chosen = np.unique(
        np.linspace(0, trajectory.height - 1, min(ROWS, trajectory.height)).round().astype(int)
    )
    rows = [
        (
            f"{row['step']:,}",
            _number(row["learning_rate"], ".3g"),
            _number(row["fp32_perplexity"], ",.2f"),
            *(_number(row[f"{name}_gap"], "+.2%") for name in shown),
            _number(row["kurtosis"], ".2f"),
            "-" if row["phase"] is None else str(row["phase"]),
        )
        for row in trajectory[chosen.tolist()].iter_rows(named=True)
    ]
    return TextTable(title, (*heads, "kurtosis", "phase"), tuple(rows))


def comparison_text(report: ForkReport) -> TextTable:
    """One row per arm: its gap at the end, and differences of the live weights from the baseline."""
    findings = report.findings
    title = (
        f"{counted(findings.n_runs, 'run')} from step {report.from_step:,}; differences to {findings.baseline}: gap in "
        "percentage points, losses in nats"
    )
    compared = {row.arm: row for row in findings.live()}
    rows = [
        (arm, _number(facts.final_gap, "+.2%"), *_differences(compared.get(arm)))
        for arm, facts in findings.arms.items()
    ]
    heads = ("arm", "last gap", "points", "95% interval", "wins", "fp32", "quantized")
    return TextTable(title, heads, tuple(rows), named=True)


def _differences(row: ArmComparison | None) -> tuple[str, ...]:
    """Cells of a comparison with the baseline; dashes if there is none."""
    if row is None:
        return ("-",) * 5
    gap, found = row.over_run.gap_points, row.over_run
    return (
        _number(gap.estimate, "+.2f"),
        "-" if gap.lower is None else f"{gap.lower:+.2f} to {gap.upper:+.2f}",
        f"{row.tests.wins}/{row.tests.pairs}",
        _number(found.fp32_nats.estimate, "+.4f"),
        _number(found.variant_nats.estimate, "+.4f"),
    )


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return "diverged" if math.isnan(value) else format(value, form)
