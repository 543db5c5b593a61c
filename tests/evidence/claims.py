"""Every number of the pages, with the file and the key that it is read from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from tests.evidence.findings_file import ORDER, TEXT, TRAININGS, Finding, Source, derived

SCHEDULES = ("constant", "wsd", "cosine")
END = (27_600, 28_600)
ROOT = "outputs/reference"
AUDITED = (
    *(f"schedules/{name}-seed{seed}" for name in SCHEDULES for seed in (0, 1)),
    "sweeps/suite",
    "grids",
    "overtrained",
    *(f"methods/{name}" for name in SCHEDULES),
)
"""Suites with a report."""


def claims(reference: Path) -> list[Finding]:
    """All findings, in the order of the pages; ``reference``: outputs/reference, reduced and compared."""
    parts = (
        _settings,
        _growth,
        _whole_run,
        _losses,
        _paper,
        _forks,
        _sweeps,
        _methods,
        _grids,
        _others,
        _interventions,
    )
    return [finding for part in parts for finding in part(reference)]


TEXT_TOKENS = 78.4e6
"""Tokens of the training text, as RUNS.md has them."""
PAPER = "arXiv 2604.15167, abstract"


def _settings(reference: Path) -> Iterator[Finding]:
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


def _growth(reference: Path) -> Iterator[Finding]:
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


def _whole_run(reference: Path) -> Iterator[Finding]:
    found = Source(reference, "schedules/whole-run/comparison.json")
    for seed in (0, 1):
        pick = ["found", {"folder": f"{ROOT}/schedules/constant-seed{seed}", "variant": "int4"}, "growth"]
        question = f"Growth of the gap over nearly the whole run, constant, seed {seed}"
        yield found.finding(f"growth.whole.constant.{seed}", question, pick, interval=TEXT)


def _losses(reference: Path) -> Iterator[Finding]:
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


def _paper(reference: Path) -> Iterator[Finding]:
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


def _forks(reference: Path) -> Iterator[Finding]:
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


def _sweeps(reference: Path) -> Iterator[Finding]:
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


def _methods(reference: Path) -> Iterator[Finding]:
    compared = Source(reference, "methods/comparison.json")
    for name in SCHEDULES:
        found = [
            each["growth"]
            for each in compared.content["found"]
            if each["folder"] == f"{ROOT}/methods/{name}" and each["variant"] != "int8"
        ]
        how = "growth intervals that lie above 1"
        value = sum(each["lower"] > 1 for each in found)
        yield derived(
            f"methods.{name}.grows",
            f"4-bit quantizers whose gap grows late, {name}",
            value,
            how=how,
            source=compared.path,
            unit="count",
            form="d",
        )
        yield derived(
            f"methods.{name}.all",
            f"4-bit quantizers measured, {name}",
            len(found),
            how="counted",
            source=compared.path,
            unit="count",
            form="d",
        )
        report = Source(reference, f"methods/{name}/report.json")
        for method in ("gptq", "awq"):
            yield report.finding(
                f"methods.{name}.{method}",
                f"Share of rounding's gap that {method} leaves at the end, {name}",
                ["methods", {"method": method}, "last"],
                unit="%",
                form=".0f",
                interval="text",
            )
        for label in ("int4", "int4_g128_asym_gptq", "nf4_b64"):
            pick = ["found", {"folder": f"{ROOT}/methods/{name}", "variant": label}, "growth"]
            yield compared.finding(
                f"methods.{name}.{label}.growth",
                f"Growth of the gap over the last quarter, {label}, {name}",
                pick,
                interval=TEXT,
            )
    causes = Source(reference, "methods/mechanism/comparison.json")
    for name in ("wsd", "cosine"):
        folder = f"{ROOT}/methods/{'cosine-mechanism' if name == 'cosine' else name}"
        pick = ["found", {"folder": folder, "variant": "int4"}, "factors", "shares"]
        yield causes.finding(
            f"cause.{name}", f"Cause of the late growth, {name}", [*pick, "cause"], unit="", form=""
        )
        share = [*pick, "factors", {"name": "sensitivity"}, "share"]
        yield causes.finding(
            f"cause.{name}.sensitivity",
            f"Share of sensitivity in the late growth, {name}",
            share,
            unit="%",
            form=".0f",
            interval="text, draws and checkpoints",
        )


def _grids(reference: Path) -> Iterator[Finding]:
    grids = Source(reference, "grids/comparison.json")
    small = [each for each in grids.content["found"] if each["variant"].startswith(("int3", "int4", "int5"))]
    growths = [each["growth"]["estimate"] for each in small]
    how = "growth of the variants of three to five bits, with the head and without"
    for name, value in (("smallest", min(growths)), ("largest", max(growths))):
        yield derived(
            f"grids.{name}",
            "Growth of the gap over one cosine suite, by grid",
            value,
            how=f"{name} {how}",
            source=grids.path,
            unit="ratio",
            form=".2f",
        )
    yield derived(
        "grids.all",
        "Grids of three to five bits",
        len(small),
        how=how,
        source=grids.path,
        unit="count",
        form="d",
    )
    grow = sum(each["growth"]["lower"] > 1 for each in small)
    yield derived(
        "grids.grow",
        "Of these, grids whose gap grows",
        grow,
        how=f"{how}, interval above 1",
        source=grids.path,
        unit="count",
        form="d",
    )


def _others(reference: Path) -> Iterator[Finding]:
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


def _interventions(reference: Path) -> Iterator[Finding]:
    decision = Source(reference, "interventions/decision.json")
    seeds = decision.content["seeds"]
    common: dict[str, Any] = {"trainings": 4 * len(seeds)}
    how = "counted"
    question = "Seeds of the 2 x 2"
    yield derived(
        "iv.seeds", question, len(seeds), how=how, source=decision.path, unit="count", form="d", **common
    )
    question = "Seeds that the rule wants"
    yield decision.finding("iv.wanted", question, ["seeds_wanted"], unit="count", form="d", **common)
    yield decision.finding(
        "iv.cause", "Cause of the damage, rate or norm", ["cause"], unit="", form="", **common
    )
    for column in ("damage_nats", "gptq_damage_nats"):
        if "times" not in decision.content["two_by_two"][column]:
            continue
        place = ["two_by_two", column]
        question = f"Cause of {column} alone, rate or norm"
        yield decision.finding(f"iv.{column}.cause", question, [*place, "cause"], unit="", form="", **common)
        for name, said in (
            ("times", "in all"),
            ("times_rate", "the rate's part"),
            ("times_norm", "the norm's part"),
        ):
            question = f"{column} at the end of a decay over a constant rate, {said}"
            yield decision.finding(
                f"iv.{column}.{name}", question, [*place, name], interval="trainings", **common
            )
    for seed in seeds:
        for column, arms in decision.content["by_seed"][seed].items():
            for arm in arms:
                key = ["by_seed", seed, column, arm]
                question = f"{column} at the end, {arm} over constant, {seed}"
                yield decision.finding(f"iv.{seed}.{column}.{arm}", question, key, trainings=2)
