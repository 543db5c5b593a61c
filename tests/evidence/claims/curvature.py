"""The swap of rounding errors and the curvature, before a decay and after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from tests.evidence.findings_file import Finding, Source, derived

SUITES = ("constant", "wsd", "cosine")
TRACE = "hessian_relative_trace"


def swaps(reference: Path) -> Iterator[Finding]:
    """Damage, its growth with the weights, and the trace of the Hessian, of the second seed of several quantizers."""
    for name in SUITES:
        report = Source(reference, f"swap/{name}/report.json")
        pick = ["swap", {"variant": "int4"}]
        question = f"Growth of INT4 damage between the steps of the swap, {name}"
        yield report.finding(f"swap.{name}.growth", question, [*pick, "growth"], interval="text")
        table = f"swap/{name}/tables/trajectory.parquet"
        traces = dict(pl.read_parquet(reference / table).select("step", TRACE).iter_rows())
        early, late = (report.content["swap"][0][key] for key in ("early", "late"))
        for step in (early, late):
            yield derived(
                f"trace.{name}.{'early' if step == early else 'late'}",
                f"Relative trace of the Hessian, {name}, step {step}",
                traces[step],
                how=f"{TRACE} at step {step}",
                source=table,
                unit="nats",
                form=".1f",
            )
        yield derived(
            f"trace.{name}.times",
            f"Growth of the relative trace of the Hessian, {name}",
            traces[late] / traces[early],
            how=f"{TRACE} at step {late} over step {early}",
            source=table,
            unit="ratio",
            form=".2f",
        )
    share = ["swap", {"variant": "int4"}, "weights_share"]
    for name in ("wsd", "cosine"):
        question = f"Share of the growth that goes with the weights, {name}"
        report = Source(reference, f"swap/{name}/report.json")
        yield report.finding(f"swap.{name}.weights", question, share, unit="%", form=".0f", interval="text")
        for key in ("early", "late"):
            steps = ["swap", {"variant": "int4"}, key]
            yield report.finding(
                f"swap.{name}.{key}", f"Step of the swap, {name}", steps, unit="step", form=",d"
            )
