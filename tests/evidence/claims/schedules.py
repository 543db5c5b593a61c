"""Growth and losses under the three schedules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from tests.evidence.findings_file import ROOT, SCHEDULES, TEXT, TRAININGS, Finding, Source, derived

END = (27_600, 28_600)


def growth(reference: Path) -> Iterator[Finding]:
    trainings = Source(reference, "schedules/trainings/comparison.json")
    group = ["groups", {"variant": "int4", "group": "decayed"}]
    question = "Growth of the gap over the last quarter, falling rate over constant rate"
    yield trainings.finding("growth.ratio", question, group, interval=TRAININGS, trainings=9)
    p_value = [*group, "permutation_p_one_sided"]
    yield trainings.finding("growth.ratio.p", question, p_value, unit="p", form=".3f", trainings=9)
    for key in ("trainings", "trainings_against"):
        yield trainings.finding(f"growth.{key}", question, [*group, key], unit="count", form="d", trainings=9)
    for key in ("before", "end"):
        steps = " to ".join(f"{int(each):,}" for each in trainings.content[key].split(":"))
        yield derived(
            f"window.{key}",
            "Window of steps",
            steps,
            how=key,
            source=trainings.path,
            unit="steps",
            trainings=9,
        )
    yield trainings.finding(
        "growth.threshold", "Growth that the rule wanted", ["threshold"], form=".2f", trainings=9
    )
    for seed in (0, 1):
        found = Source(reference, f"schedules/seed{seed}/comparison.json")
        for name in SCHEDULES:
            pick = ["found", {"folder": f"{ROOT}/schedules/{name}-seed{seed}", "variant": "int4"}]
            said = f"Growth of the gap over the last quarter, {name}, seed {seed}"
            yield found.finding(f"growth.{name}.{seed}", said, [*pick, "growth"], interval=TEXT)
            yield found.finding(
                f"end.{name}.{seed}",
                f"Gap at the end, {name}, seed {seed}",
                [*pick, "end"],
                unit="%",
                form=".1f",
                interval=TEXT,
            )
            if name != "constant":
                yield found.finding(
                    f"against.{name}.{seed}",
                    f"{said}, over constant's",
                    [*pick, "against"],
                    interval=TEXT,
                    trainings=2,
                )


def whole_run(reference: Path) -> Iterator[Finding]:
    found = Source(reference, "schedules/whole-run/comparison.json")
    for seed in (0, 1):
        pick = ["found", {"folder": f"{ROOT}/schedules/constant-seed{seed}", "variant": "int4"}, "growth"]
        question = f"Growth of the gap over nearly the whole run, constant, seed {seed}"
        yield found.finding(f"growth.whole.constant.{seed}", question, pick, interval=TEXT)


def losses(reference: Path) -> Iterator[Finding]:
    ends = {}
    for name in SCHEDULES:
        for seed in (0, 1):
            table = f"schedules/{name}-seed{seed}/tables/trajectory.parquet"
            late = pl.read_parquet(reference / table).filter(pl.col("step").is_between(*END))
            for variant in ("int4", "fp32"):
                column = f"{variant}_nll_nats"
                ends[variant, name, seed] = value = float(late[column].mean())  # type: ignore[arg-type]
                how = f"mean of {column} over steps {END[0]} to {END[1]}"
                yield derived(
                    f"loss.{variant}.{name}.{seed}",
                    f"{variant} loss at the end, {name}, seed {seed}",
                    value,
                    how=how,
                    source=table,
                    unit="nats",
                )
    gains = [
        ends["int4", "constant", seed] - ends["int4", name, seed]
        for name in ("wsd", "cosine")
        for seed in (0, 1)
    ]
    question = "INT4 loss at the end, constant minus falling rate, same seed"
    for name, value in (("smallest", min(gains)), ("largest", max(gains))):
        how = f"{name} of loss.int4.constant - loss.int4.wsd or .cosine, seed by seed"
        yield derived(
            f"gain.{name}",
            question,
            value,
            how=how,
            source="findings.json",
            unit="nats",
            form=".2f",
            trainings=6,
        )
