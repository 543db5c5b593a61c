"""What a fork experiment comes to, as named results: what sentences, charts, pages and schedules.json are made from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.analysis.statistics.contrasts import Estimate, NaiveTest
from pipeline.analysis.typed_json import from_json, to_json


@dataclass(frozen=True)
class Differences:
    """Treated minus baseline, lower is better."""

    step: int | None
    """Update of the probe, of an end; None for means over a run, and where every run diverged before any probe."""
    gap_points: Estimate
    """Gap of the quantized model, percentage points."""
    fp32_nats: Estimate
    """Loss in full precision."""
    variant_nats: Estimate
    """Loss of the quantized model itself, which is what is deployed."""


@dataclass(frozen=True)
class RunTests:
    """Other tests of the gap over the run, which say how sure the claim is and what careless ones would claim."""

    welch: Estimate
    """The runs of the two arms taken for independent."""
    naive: NaiveTest
    """The probes taken for independent."""
    wilcoxon_p: float | None
    """Rank-sum test of the run means, exact with ties too: the test of the wins."""
    wilcoxon_p_floor: float
    """Smallest p value that so few runs can reach in it."""
    wins: int
    """Pairs of a treated and a baseline run of which the treated one is lower; a diverged run loses."""
    pairs: int
    """Pairs of runs that do not repeat another."""
    n_distinct_runs: int
    n_distinct_baseline_runs: int
    effect_size: float | None
    """Hedges' g over runs; None where an arm has no spread."""
    detectable_points: float | None
    """Smallest true difference that is claimed four times out of five after correction; None without a spread."""


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the baseline, under one set of weights."""

    arm: str
    baseline: str
    weights: str
    """``live``, ``ema`` or ``lawa``."""
    probes: str
    """Phase of the probes that are compared; ``all`` = every probe after the start."""
    n_probes: int
    n_runs: int
    n_baseline_runs: int
    n_pairs: int
    """Seeds whose runs of both arms are finite and compared with each other; 0 = compared unpaired, by Welch's test."""
    over_run: Differences
    """Of means over the compared probes."""
    at_end: Differences
    """At the last of them."""
    tests: RunTests
    p_holm: float | None
    """Of the gap over the run, corrected for the arms compared and the looks at the data."""


@dataclass(frozen=True)
class AverageComparison:
    """Averaged against live weights of the same runs, at the probes after the start."""

    arm: str
    weights: str
    n_runs: int
    over_run: Differences
    at_end: Differences


@dataclass(frozen=True)
class WinCount:
    """In how many pairs of runs ``arm`` has a lower gap than ``other`` at their common probes."""

    arm: str
    other: str
    wins: int
    pairs: int


@dataclass(frozen=True)
class SweepTrend:
    """A trend of the gap over one parameter of a schedule, all others held."""

    schedule: str
    parameter: str
    values: tuple[float, ...]
    n_runs: int
    spearman_r: float
    p_value: float
    """By permutation within seeds."""
    test: str
    held: dict[str, float]
    """Other parameters, of those in which arms of the schedule differ."""


@dataclass(frozen=True)
class ArmFacts:
    """What the runs of an arm were, and where they ended."""

    schedule: str
    parameters: dict[str, float]
    optimizer: str
    runs: int
    final_gap: float | None
    final_fp32_nll_nats: float | None
    mean_learning_rate: float | None = None
    """Over the updates of a run, the ramp for cold moments among them."""


@dataclass(frozen=True)
class ForkFindings:
    """Everything that is computed from the table of an experiment."""

    baseline: str
    variant: str | None
    """The variant whose gap is compared; None where only fp32 was measured."""
    arms: dict[str, ArmFacts]
    diverged: tuple[str, ...]
    n_runs: int
    looks: int
    """How often the runs that there were could be looked at: 1, and one for each time that seeds were added."""
    comparisons: tuple[ArmComparison, ...]
    wins: tuple[WinCount, ...]
    averages: tuple[AverageComparison, ...]
    sweeps: tuple[SweepTrend, ...]

    def live(self) -> list[ArmComparison]:
        """The comparisons of live weights."""
        return [each for each in self.comparisons if each.weights == "live"]


@dataclass(frozen=True)
class ForkReport:
    """The contents of schedules.json."""

    suite: str
    from_step: int
    start_rule: str
    findings: ForkFindings
    sentences: tuple[str, ...]
    failures: Any
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    corpus: str
    train_corpus: str
    config: dict[str, Any]
    fingerprint: str
    wall_s: float
    versions: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One object, findings beside where they come from; NaN as null."""
        plain = to_json(self)
        findings = plain.pop("findings")
        return {**plain, **findings}

    @classmethod
    def from_json(cls, value: Any) -> ForkReport:
        """What :meth:`to_json` gave; ``ValueError`` names the field that is not as wanted."""
        if not isinstance(value, dict):
            raise ValueError(f"schedules.json holds {type(value).__name__}, wanted an object")
        own = {field.name for field in dataclasses.fields(ForkFindings)}
        findings = {key: item for key, item in value.items() if key in own}
        rest = {key: item for key, item in value.items() if key not in own}
        report: ForkReport = from_json(cls, {**rest, "findings": findings}, "schedules.json")
        return report
