"""The reduction of a fork experiment: shards -> ``tables/fork.parquet`` and ``tables/schedules.json``.

Rules, written down before any run: an arm is compared with the baseline (``cosine``, else the first arm) at the same
probe steps, on the mean over these of the gap of the headline variant (int4 where there is one); probes at the start
and during the re-warm-up count nowhere, and where a schedule names a compared phase (OLI: the settled cool ones) only
its probes count. Holm's correction is over the arms, separately for each set of weights. An arm helps or hurts if
the adjusted p value is under 0.05.

Added after the first results, and in no claim: the same differences at the last of these probes, whose model is the one
that is deployed. Changed after the first results, because simulation showed it: runs are compared seed by seed, every
interval and p value counts the scatter of the evaluation text, and p values count the looks at the data. See
``analysis.statistics.contrasts`` for what they are conditional on.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.analysis.forks.fork_compare import compare_average, compare_with_baseline, count_wins
from pipeline.analysis.forks.fork_findings import (
    ArmComparison,
    ArmFacts,
    AverageComparison,
    ForkFindings,
    ForkReport,
)
from pipeline.analysis.forks.fork_sweeps import find_sweeps
from pipeline.analysis.forks.fork_table import fork_table
from pipeline.analysis.forks.fork_words import sentences
from pipeline.base.typed_json import to_json
from pipeline.base.versions import versions
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import finished
from pipeline.runs.plans import ForkPlan
from pipeline.runs.result_files import SCHEDULES
from pipeline.spec import ALIASES
from pipeline.train.arms import BASELINE, make_arm_schedule
from pipeline.train.schedules import mean_rate

WEIGHTS = ("live", "ema", "lawa")


@dataclass(frozen=True)
class ForkReduction:
    """Result of the reduction of a fork experiment."""

    table: pl.DataFrame
    """``fork_table``, without the losses by batch"""
    report: ForkReport


def reduce_fork(folder: RunFolder, *, allow_missing: bool = False, seed: int = 0) -> ForkReduction:
    """Join the runs in ``folder`` (of kind FORK) and test the schedules; writes nothing.

    Raises as ``finished``.
    """
    plan, found = finished(folder, allow_missing=allow_missing)
    done = set(found.done)
    table = fork_table(folder.shards.require([run.key for run in plan.runs if run.key in done]))
    table = table.filter(
        pl.col("variant").is_in(plan.probe["variants"])
    )  # a run may hold more variants than are wanted
    findings = compare_arms(table, looks=plan.looks, seed=seed)
    rates = _mean_rates(plan, findings.arms)
    arms = {
        arm: dataclasses.replace(facts, mean_learning_rate=rates[arm]) for arm, facts in findings.arms.items()
    }
    report = ForkReport(
        suite=plan.suite,
        from_step=plan.checkpoint.step,
        start_rule=plan.start_rule,
        findings=dataclasses.replace(findings, arms=arms),
        sentences=sentences(findings),
        failures=found.failed,
        missing=tuple(found.to_measure),
        notes=plan.notes,
        corpus=plan.corpus,
        train_corpus=plan.train_corpus,
        config=plan.config,
        fingerprint=plan.fingerprint,
        wall_s=plan.wall_s,
        versions=versions(),
    )
    return ForkReduction(table.drop("batch_nll_nats"), report)


def write_fork_reduction(folder: RunFolder, reduction: ForkReduction) -> None:
    """Writes ``tables/fork.parquet`` and ``tables/schedules.json``."""
    buffer = io.BytesIO()
    reduction.table.write_parquet(buffer)
    folder.results.write_table("fork.parquet", buffer.getvalue())
    folder.results.write(SCHEDULES, json.dumps(to_json(reduction.report), indent=1, allow_nan=False))


def compare_arms(table: pl.DataFrame, *, looks: int = 1, seed: int = 0) -> ForkFindings:
    """The statistics of a ``fork_table``.

    ``looks``: how often the data could be looked at (``ForkPlan.looks``). ``seed``: of the permutations of a sweep.
    """
    arms = table["arm"].unique(maintain_order=True).to_list()
    baseline = BASELINE if BASELINE in arms else arms[0]
    others = [arm for arm in arms if arm != baseline]
    variant = headline(table)
    runs = table.unique("run_id", maintain_order=True)
    comparisons: list[ArmComparison] = []
    averages: list[AverageComparison] = []
    if variant is not None:
        for weights in WEIGHTS:
            comparisons += compare_with_baseline(table, baseline, others, variant, weights, looks=looks)
        averages = [
            compare_average(table, arm, variant, weights)
            for arm in arms
            for weights in WEIGHTS
            if weights != "live"
        ]
    return ForkFindings(
        baseline=baseline,
        variant=variant,
        arms={arm: _arm_facts(table, arm, variant) for arm in arms},
        diverged=tuple(runs.filter(pl.col("status") == "diverged")["run_id"]),
        n_runs=runs.height,
        looks=looks,
        comparisons=tuple(comparisons),
        wins=tuple(count_wins(table, arms, variant)) if variant is not None else (),
        averages=tuple(averages),
        sweeps=tuple(find_sweeps(table, variant, seed=seed)) if variant is not None else (),
    )


def headline(table: pl.DataFrame) -> str | None:
    """The variant whose gap is compared: int4 if measured, else the first that is not fp32."""
    variants = [each for each in table["variant"].unique(maintain_order=True) if each != "fp32"]
    return ALIASES["int4"] if ALIASES["int4"] in variants else next(iter(variants), None)


def _arm_facts(table: pl.DataFrame, arm: str, variant: str | None) -> ArmFacts:
    rows = table.filter(pl.col("arm") == arm)
    first = rows.row(0, named=True)
    last = rows.filter((pl.col("weights") == "live") & (pl.col("step") == rows["step"].max()))
    ends = last.filter(pl.col("variant") == variant)["gap"].to_numpy() if variant else np.empty(0)
    nll = last.filter(pl.col("variant") == "fp32")["nll_nats"].to_numpy()
    return ArmFacts(
        schedule=first["schedule"],
        parameters=json.loads(first["parameters"]),
        optimizer=first["optimizer"],
        runs=rows["run_id"].n_unique(),
        final_gap=float(ends.mean()) if len(ends) else None,
        final_fp32_nll_nats=float(nll.mean()) if len(nll) else None,
    )


def _mean_rates(plan: ForkPlan, labels: Collection[str]) -> dict[str, float]:
    """Arm -> mean learning rate over the updates of a run, including the ramp for cold moments."""
    rates = plan.rates
    arms = {run.arm.label: run.arm for run in plan.runs if run.arm.label in labels}
    return {label: mean_rate(make_arm_schedule(arm, rates), rates.steps) for label, arm in arms.items()}
