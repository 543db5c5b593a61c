"""Regrets of stopping rules, and the scatter of other people's runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.evidence.findings_file import Finding, Source, derived


def others(reference: Path) -> Iterator[Finding]:
    other = Source(reference, "external/findings.json")
    yield other.finding(
        "external.gap",
        "Scatter of a gap between trainings of one recipe, share of it",
        ["seed_scatter", "median_gap_sd_share"],
        unit="%",
        form=".1f",
        interval="recipes",
        trainings=75,
    )
    costs = Source(reference, "regrets.json")
    for rule, name in (
        ("last checkpoint", "last"),
        ("best fp32", "best-fp32"),
        ("stop at the fp32 plateau", "plateau"),
        ("stop when the gap grows", "gap"),
        ("patience 3", "patience"),
        ("monitor", "monitor"),
    ):
        for key in ("mean", "largest"):
            yield costs.finding(
                f"regret.{name}.{key}",
                f"Regret over suites, {rule}: {key}",
                ["over_suites", rule, key],
                unit="nats",
                form=".3f",
                trainings=len(costs.content["suites"]),
            )
        yield costs.finding(
            f"regret.{name}.stopped",
            f"Suites in which this rule stopped: {rule}",
            ["over_suites", rule, "stopped"],
            unit="count",
            form="d",
            trainings=len(costs.content["suites"]),
        )
    yield derived(
        "regret.suites",
        "Suites in the table of regrets",
        len(costs.content["suites"]),
        how="counted",
        source=costs.path,
        unit="count",
        form="d",
    )
