"""Sentences on the result of a fork experiment, from its findings only."""

from __future__ import annotations

import math

from pipeline.analysis.forks.fork_findings import (
    ArmComparison,
    AverageComparison,
    Differences,
    ForkFindings,
    SweepTrend,
)
from pipeline.analysis.statistics.contrasts import Estimate
from pipeline.base.english import counted
from pipeline.spec import variant_label
from pipeline.train.schedules import ComparedPhase, schedules

ALPHA = 0.05
AVERAGES = {"ema": "The moving average of the weights", "lawa": "The mean of the last probes' weights (LAWA)"}


def sentences(findings: ForkFindings) -> tuple[str, ...]:
    """Sentences in reading order: each arm against the baseline, averaging, sweeps, diverged runs, meaning of
    brackets.

    Numbers in parentheses after a number are its 95 % interval over data orders and evaluation text.
    """
    if findings.variant is None:
        return ("Only fp32 was measured: there is no gap to compare.",)
    variant = variant_label(findings.variant)
    live = findings.live()
    out = [] if live else [f"There is one arm, {findings.baseline}: nothing to compare it with."]
    compared = {arm: schedules.find(facts.schedule).compared for arm, facts in findings.arms.items()}
    out += [_comparison(each, variant, compared[each.arm]) for each in live]
    out += [_average(each, variant) for each in findings.averages if each.arm == findings.baseline]
    out += [_sweep(each) for each in findings.sweeps]
    if findings.diverged:
        names = ", ".join(findings.diverged)
        out.append(
            f"{counted(len(findings.diverged), 'run')} diverged ({names}). "
            "A diverged run loses every pair and is in no mean."
        )
    if any(each.tests.n_distinct_runs > 1 or each.n_runs > 1 for each in live):
        out.append(_meaning(findings))
    return tuple(out)


def compared_phases(findings: ForkFindings) -> str:
    """A clause on the probes of each schedule that are compared, where these are not all after the start."""
    used = [schedules.find(name) for name in sorted({facts.schedule for facts in findings.arms.values()})]
    return "".join(
        f", of {each.title or each.name} the {each.compared.adjective} ones" for each in used if each.compared
    )


def _meaning(findings: ForkFindings) -> str:
    looks = (
        ""
        if findings.looks == 1
        else f" Seeds were added after a result could be seen, so p values are multiplied by {findings.looks}."
    )
    return (
        "Intervals are 95 % and count the order of the training text, seed by seed, and the choice of the evaluation "
        f"text; they hold for this starting checkpoint.{looks}"
    )


def _comparison(row: ArmComparison, variant: str, compared: ComparedPhase | None) -> str:
    gap = row.over_run.gap_points
    if math.isnan(gap.estimate):
        return f"{row.arm}: no run without divergence to compare with {row.baseline}."
    where = f"in its {compared.adjective} phases" if compared else "after the start"
    wins = f"it wins {row.tests.wins} of {row.tests.pairs} pairs of runs{_repeats(row)}"
    if gap.p_value is None:
        return (
            f"{row.arm}: {variant} gap {gap.estimate:+.2f} points against {row.baseline} {where} ({wins}); with "
            f"{row.n_runs} run against {row.n_baseline_runs} the spread between runs is unknown, so nothing "
            "can be claimed."
        )
    sure = f"({_interval(gap)}; corrected {_p(row.p_holm)}; {wins})"
    losses = f"{_losses(row.over_run, variant)} {_end(row.at_end, variant, compared)}"
    if row.p_holm is not None and row.p_holm < ALPHA:
        claim = "lowers" if gap.estimate < 0 else "raises"
        by = f"{abs(gap.estimate):.2f} points against {row.baseline} {where}"
        return f"{row.arm} {claim} the {variant} gap by {by} {sure}. {losses}"
    design = row.tests.detectable_points
    tail = "" if design is None else f" The design could have found {design:.2f} points."
    return (
        f"{row.arm} does not differ detectably from {row.baseline}: {variant} gap {gap.estimate:+.2f} points {where} "
        f"{sure}. {losses}{_naive(row)}{tail}"
    )


def _repeats(row: ArmComparison) -> str:
    """Clause on runs that repeat another, if any."""
    same = row.n_runs - row.tests.n_distinct_runs
    return f": {same} of its {row.n_runs} runs repeat another number for number" if same else ""


def _losses(over_run: Differences, variant: str) -> str:
    """The arm's cost in full precision and in the deployed model: a small gap alone is no gain."""
    fp32, own = (_nats(each) for each in (over_run.fp32_nats, over_run.variant_nats))
    return f"Over the run the FP32 price is {fp32} and that of {variant} itself {own}."


def _end(end: Differences, variant: str, compared: ComparedPhase | None = None) -> str:
    """The same at the last compared probe, which is the deployed model."""
    name = f"At its last {compared.phase} probe" if compared else "At its end"
    gap = f"{end.gap_points.estimate:+.2f} points{_bounds(end.gap_points, '+.2f')}"
    price = f"{_nats(end.variant_nats)}{_bounds(end.variant_nats, '+.3f')}"
    return f"{name} (update {end.step:,}): gap {gap}; FP32 price {_nats(end.fp32_nats)}, of {variant} itself {price}."


def _nats(difference: Estimate) -> str:
    return f"{difference.estimate:+.3f} nats"


def _bounds(estimate: Estimate, form: str) -> str:
    return "" if estimate.lower is None else f" ({estimate.lower:{form}} to {estimate.upper:{form}})"


def _interval(gap: Estimate) -> str:
    return f"95% interval {gap.lower:+.2f} to {gap.upper:+.2f}"


def _naive(row: ArmComparison) -> str:
    """The claim of a test that counts probes instead of runs, if it claims more."""
    naive = row.tests.naive
    if naive.p_value is None or naive.p_value >= ALPHA:
        return ""
    return (
        f" A t test that takes the {naive.n} pairs of probes for independent would have claimed a "
        f"difference (t = {naive.t:.2f}, {_p(naive.p_value)})."
    )


def _average(row: AverageComparison, variant: str) -> str:
    name, gap = AVERAGES[row.weights], row.over_run.gap_points
    if math.isnan(gap.estimate):
        return f"{name}: no run to compare."
    interval = "one run, no interval" if gap.lower is None else _interval(gap)
    return (
        f"{name} along {row.arm} changes the {variant} gap by {gap.estimate:+.2f} points ({interval}). "
        f"{_losses(row.over_run, variant)} {_end(row.at_end, variant)}"
    )


def _sweep(row: SweepTrend) -> str:
    values = ", ".join(f"{value:g}" for value in row.values)
    held = ", ".join(f"{name} {value:g}" for name, value in row.held.items())
    swept = f"{row.parameter} of {row.schedule}" + (f" with {held}" if held else "")
    head = f"Over {swept} ({values}; {counted(row.n_runs, 'run')}) the gap"
    if math.isnan(row.p_value):
        return f"{head} does not vary."
    falls_or_rises = "rises" if row.spearman_r > 0 else "falls"
    trend = "shows no detectable trend" if row.p_value >= ALPHA else falls_or_rises
    return (
        f"{head} {trend} (Spearman r = {row.spearman_r:.2f}, {_p(row.p_value)} by permutation within seeds)."
    )


def _p(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "p unknown"
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.4f}" if value < 0.01 else f"p = {value:.3f}"
