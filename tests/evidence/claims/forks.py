"""Forks and sweeps of schedules, arm against arm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.evidence.findings_file import ORDER, Finding, Source


def forks(reference: Path) -> Iterator[Finding]:
    forks = Source(reference, "fork/tables/schedules.json")
    for arm in ("sgdr", "oli", "constant", "wsd"):
        yield from _arm(
            forks, f"fork.{arm}", ["comparisons", {"arm": arm, "weights": "live"}], f"{arm} against cosine", 5
        )
    ema = ["averages", {"arm": "cosine", "weights": "ema"}]
    yield from _arm(forks, "fork.ema", ema, "moving average of cosine's weights against cosine", 5)


def _arm(source: Source, name: str, pick: list[Any], what: str, seeds: int) -> Iterator[Finding]:
    """The gap over the run and at its end, the variant's own loss at the end, and wins where they were counted."""
    common: dict[str, Any] = {"interval": ORDER, "trainings": 2 * seeds}
    yield source.finding(
        f"{name}.gap",
        f"Gap over the run, {what}",
        [*pick, "over_run", "gap_points"],
        unit="points",
        form="+.2f",
        **common,
    )
    yield source.finding(
        f"{name}.gap.end",
        f"Gap at the end, {what}",
        [*pick, "at_end", "gap_points"],
        unit="points",
        form="+.2f",
        **common,
    )
    yield source.finding(
        f"{name}.int4.end",
        f"INT4 loss at the end, {what}",
        [*pick, "at_end", "variant_nats"],
        unit="nats",
        form="+.3f",
        **common,
    )
    if pick[0] == "comparisons":
        for key in ("wins", "pairs"):
            yield source.finding(
                f"{name}.{key}",
                f"Pairs of runs, {what}",
                [*pick, "tests", key],
                unit="count",
                form="d",
                trainings=2 * seeds,
            )


def sweeps(reference: Path) -> Iterator[Finding]:
    for folder, name in (("amplitude", "amplitude"), ("level", "level")):
        sweep = Source(reference, f"sweeps/{folder}/tables/schedules.json")
        pick = ["sweeps", 0]
        yield sweep.finding(
            f"{name}.r",
            f"Spearman r of the gap with the swept value, {folder}",
            [*pick, "spearman_r"],
            unit="r",
            form="+.2f",
            trainings=12,
        )
        yield sweep.finding(
            f"{name}.p",
            f"Its p by permutation, {folder}",
            [*pick, "p_value"],
            unit="p",
            form=".4f",
            trainings=12,
        )
    sweep = Source(reference, "sweeps/amplitude/tables/schedules.json")
    for amplitude in ("0.1", "3"):
        pick = ["comparisons", {"arm": f"oli-amplitude{amplitude}", "weights": "live"}]
        yield from _arm(
            sweep, f"amplitude.{amplitude}", pick, f"OLI of amplitude {amplitude} against cosine", 3
        )
    equal = Source(reference, "sweeps/equal-mean/tables/schedules.json")
    pick = ["comparisons", {"arm": "oli-amplitude3-bump_fraction0.25-mean_factor0.55", "weights": "live"}]
    yield from _arm(equal, "equal-mean.3", pick, "OLI of amplitude 3 at cosine's mean rate against cosine", 3)
