"""The reduction of a fork experiment: shards -> ``tables/fork.parquet`` and ``tables/schedules.json``.

Rules, written down before any run: an arm is compared with the baseline (``cosine``, else the first arm) at the same
probe steps, on the mean over these of the gap of the headline variant (int4 where there is one); probes at the start
and during the re-warm-up count nowhere, of OLI only the settled cool ones count. Holm's correction is over the arms,
for each set of weights apart. An arm helps or hurts where the adjusted p value is under 0.05.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from pipeline.analysis.contrasts import contrast, holm, paired_estimate, welch_estimate, wins
from pipeline.analysis.fork_table import arm_runs, compared_steps, fork_table
from pipeline.analysis.fork_words import sentences
from pipeline.errors import IncompleteRunError
from pipeline.shards import SCHEDULES, ForkPlan, RunFolder
from pipeline.spec import ALIASES
from pipeline.survey import Survey, survey
from pipeline.train.arms import BASELINE, ForkRates, make_arm_schedule
from pipeline.train.schedules import mean_rate
from pipeline.versions import versions

POINTS = 100.0
"""Gaps are fractions in the tables and percentage points in comparisons."""

WEIGHTS = ("live", "ema", "lawa")

LEAST_VALUES = 3
"""Of a parameter, for a trend over it."""


@dataclass(frozen=True)
class ForkReduction:
    """What a fork experiment comes to."""

    table: pl.DataFrame
    """``fork_table``"""
    report: dict[str, Any]
    """The contents of schedules.json."""


@dataclass(frozen=True)
class SweptArms:
    """Arms of one schedule that differ in one parameter alone."""

    parameter: str
    arms: dict[float, str]
    """Label by value of the parameter."""
    held: dict[str, float]
    """Their other parameters, of those in which arms of the schedule differ."""


def reduce_fork(folder: RunFolder, *, allow_missing: bool = False, seed: int = 0) -> ForkReduction:
    """Joins the runs in ``folder`` (of kind FORK) and tests the schedules; writes nothing.

    Raises as ``analysis.reduce.reduce_run``.
    """
    plan: ForkPlan = folder.read_plan()
    found = survey(folder, plan)
    found.refuse_stale(folder)
    if not found.done or (found.to_measure and not allow_missing):
        raise IncompleteRunError(_missing_message(folder, plan, found))
    done = set(found.done)
    table = fork_table(folder.require_shards([run.key for run in plan.runs if run.key in done]))
    compared = compare_arms(table, seed=seed)
    for arm, rate in _mean_rates(plan, compared["arms"]).items():
        compared["arms"][arm]["mean_learning_rate"] = rate
    report = {
        "suite": plan.suite,
        "from_step": plan.checkpoint.step,
        "start_rule": plan.start_rule,
        **compared,
        "failures": found.failed,
        "missing": list(found.to_measure),
        "notes": list(plan.notes),
        "corpus": plan.corpus,
        "train_corpus": plan.train_corpus,
        "config": plan.config,
        "fingerprint": plan.fingerprint,
        "wall_s": plan.wall_s,
        "versions": versions(),
    }
    return ForkReduction(table, report)


def write_fork_reduction(folder: RunFolder, reduction: ForkReduction) -> None:
    """Writes ``tables/fork.parquet`` and ``tables/schedules.json``."""
    buffer = io.BytesIO()
    reduction.table.write_parquet(buffer)
    folder.write_table("fork.parquet", buffer.getvalue())
    folder.write_result(SCHEDULES, json.dumps(_finite(reduction.report), indent=1, allow_nan=False))


def compare_arms(table: pl.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """The statistics and the sentences of a ``fork_table``."""
    arms = table["arm"].unique(maintain_order=True).to_list()
    baseline = BASELINE if BASELINE in arms else arms[0]
    variant = headline(table)
    runs = table.unique("run_id", maintain_order=True)
    report: dict[str, Any] = {
        "baseline": baseline,
        "variant": variant,
        "arms": {arm: _arm_facts(table, arm, variant) for arm in arms},
        "diverged": runs.filter(pl.col("status") == "diverged")["run_id"].to_list(),
        "n_runs": runs.height,
        "comparisons": [],
        "wins": [],
        "averages": [],
        "sweeps": [],
    }
    if variant is not None:
        for weights in WEIGHTS:
            report["comparisons"] += _comparisons(table, (baseline, *arms), variant, weights, seed)
        report["wins"] = _wins(table, arms, variant)
        report["averages"] = [
            _average(table, arm, variant, weights) for arm in arms for weights in WEIGHTS if weights != "live"
        ]
        report["sweeps"] = _sweeps(table, variant)
    report["sentences"] = sentences(report)
    return report


def headline(table: pl.DataFrame) -> str | None:
    """The variant whose gap is compared: int4 where it was measured, else the first that is not fp32."""
    variants = [each for each in table["variant"].unique(maintain_order=True) if each != "fp32"]
    return ALIASES["int4"] if ALIASES["int4"] in variants else next(iter(variants), None)


def _comparisons(
    table: pl.DataFrame, named: tuple[str, ...], variant: str, weights: str, seed: int
) -> list[dict[str, Any]]:
    """Every arm against the baseline, which ``named`` names first."""
    baseline, *arms = named
    reference = arm_runs(table, baseline, variant, weights)
    rows = []
    for arm in arms:
        if arm == baseline:
            continue
        runs = arm_runs(table, arm, variant, weights)
        chosen = compared_steps(runs)
        found = contrast(runs.gap[:, chosen] * POINTS, reference.gap[:, chosen] * POINTS, seed=seed)
        price = welch_estimate(
            runs.fp32_nll_nats[:, chosen].mean(axis=1), reference.fp32_nll_nats[:, chosen].mean(axis=1)
        )
        loss = welch_estimate(
            runs.variant_nll_nats[:, chosen].mean(axis=1), reference.variant_nll_nats[:, chosen].mean(axis=1)
        )
        rows.append(
            {
                "arm": arm,
                "baseline": baseline,
                "weights": weights,
                "probes": "settled" if "settled" in runs.phases else "all",
                "n_probes": int(chosen.sum()),
                "n_runs": len(runs.seeds),
                "n_baseline_runs": len(reference.seeds),
                **dataclasses.asdict(found),
                "fp32_price_nats": dataclasses.asdict(price),
                "variant_price_nats": dataclasses.asdict(loss),
            }
        )
    adjusted = holm([row["difference"]["p_value"] for row in rows])
    return [{**row, "p_holm": p_value} for row, p_value in zip(rows, adjusted, strict=True)]


def _wins(table: pl.DataFrame, arms: list[str], variant: str) -> list[dict[str, Any]]:
    """In how many pairs of runs the first of two arms has the lower gap, on the probes that are compared of both.

    Two arms without such a probe (OLI with different periods) are left out.
    """
    runs = {arm: arm_runs(table, arm, variant, "live") for arm in arms}
    found = []
    for arm, other in itertools.permutations(arms, 2):
        chosen = compared_steps(runs[arm]) & compared_steps(runs[other])
        if not chosen.any():
            continue
        won = wins(runs[arm].gap[:, chosen], runs[other].gap[:, chosen])
        pairs = len(runs[arm].seeds) * len(runs[other].seeds)
        found.append({"arm": arm, "other": other, "wins": won, "pairs": pairs})
    return found


def _arm_facts(table: pl.DataFrame, arm: str, variant: str | None) -> dict[str, Any]:
    rows = table.filter(pl.col("arm") == arm)
    first = rows.row(0, named=True)
    last = rows.filter((pl.col("weights") == "live") & (pl.col("step") == rows["step"].max()))
    ends = last.filter(pl.col("variant") == variant)["gap"].to_numpy() if variant else np.empty(0)
    nll = last.filter(pl.col("variant") == "fp32")["nll_nats"].to_numpy()
    return {
        "schedule": first["schedule"],
        "parameters": json.loads(first["parameters"]),
        "optimizer": first["optimizer"],
        "runs": rows["run_id"].n_unique(),
        "final_gap": float(ends.mean()) if len(ends) else None,
        "final_fp32_nll_nats": float(nll.mean()) if len(nll) else None,
    }


def _mean_rates(plan: ForkPlan, labels: Collection[str]) -> dict[str, float]:
    """Mean learning rate of the updates of a run, the ramp for cold moments among them, by arm."""
    rates = ForkRates(**plan.config["rates"])
    arms = {run.arm.label: run.arm for run in plan.runs if run.arm.label in labels}
    return {label: mean_rate(make_arm_schedule(arm, rates), rates.steps) for label, arm in arms.items()}


def _average(table: pl.DataFrame, arm: str, variant: str, weights: str) -> dict[str, Any]:
    """Averaged against live weights of the same runs, at the probes after the start: one difference per run."""
    live, mean = (arm_runs(table, arm, variant, each) for each in ("live", weights))
    chosen = ~np.isin(np.array(live.phases), ["start", "rewarm"])
    gap = paired_estimate((mean.gap - live.gap)[:, chosen].mean(axis=1) * POINTS)
    price = paired_estimate((mean.fp32_nll_nats - live.fp32_nll_nats)[:, chosen].mean(axis=1))
    loss = paired_estimate((mean.variant_nll_nats - live.variant_nll_nats)[:, chosen].mean(axis=1))
    return {
        "arm": arm,
        "weights": weights,
        "n_runs": len(live.seeds),
        "difference": dataclasses.asdict(gap),
        "fp32_price_nats": dataclasses.asdict(price),
        "variant_price_nats": dataclasses.asdict(loss),
    }


def _sweeps(table: pl.DataFrame, variant: str) -> list[dict[str, Any]]:
    """Rank correlation, over runs, of the gap with a parameter that takes three values or more, all others held."""
    arms = table.select("arm", "schedule", "parameters", "optimizer").unique(maintain_order=True)
    found = []
    for (schedule, _), group in arms.group_by("schedule", "optimizer", maintain_order=True):
        settings = {
            arm: json.loads(text) for arm, text in zip(group["arm"], group["parameters"], strict=True)
        }
        for sweep in _swept_arms(settings):
            points = [
                (value, gap)
                for value, arm in sweep.arms.items()
                for gap in _run_means(table, arm, variant)
                if math.isfinite(gap)
            ]
            values = sorted({value for value, _ in points})
            if len(values) < LEAST_VALUES:
                continue
            test = stats.spearmanr(*zip(*points, strict=True))
            found.append(
                {
                    "schedule": schedule,
                    "parameter": sweep.parameter,
                    "values": values,
                    "n_runs": len(points),
                    "spearman_r": float(test.statistic),
                    "p_value": float(test.pvalue),
                    "held": sweep.held,
                }
            )
    return found


def _swept_arms(settings: Mapping[str, Mapping[str, float]]) -> list[SweptArms]:
    """Every way in which arms of one schedule, given with their parameters, differ in one parameter alone.

    An arm without a parameter is alike to others without it, and has no place in a sweep of it. Of arms that are the
    same by two names the first counts.
    """
    names = sorted({name for values in settings.values() for name in values})
    moving = [name for name in names if len({values.get(name) for values in settings.values()}) > 1]
    found = []
    for name in moving:
        alike: dict[tuple[tuple[str, float], ...], dict[float, str]] = {}
        for arm, values in settings.items():
            if name in values:
                others = tuple(sorted((key, value) for key, value in values.items() if key != name))
                alike.setdefault(others, {}).setdefault(values[name], arm)
        for others, arms in alike.items():
            found.append(SweptArms(name, arms, {key: value for key, value in others if key in moving}))
    return found


def _run_means(table: pl.DataFrame, arm: str, variant: str) -> list[float]:
    runs = arm_runs(table, arm, variant, "live")
    means: list[float] = runs.gap[:, compared_steps(runs)].mean(axis=1).tolist()
    return means


def _missing_message(folder: RunFolder, plan: ForkPlan, found: Survey) -> str:
    shown = ", ".join(found.to_measure[:8]) + (", ..." if len(found.to_measure) > 8 else "")
    return (
        f"{folder}: {len(found.to_measure)} of {len(plan.runs)} runs have no shard ({shown}); run the fork "
        "again to finish them, or pass --allow-missing to report without them"
    )


def _finite(value: Any) -> Any:
    """``value`` with every NaN and infinity as null: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
