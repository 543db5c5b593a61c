"""Results of a fork experiment as typed values, from which sentences, charts, pages and schedules.json are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.analysis.statistics.contrasts import Estimate, NaiveTest
from pipeline.base.typed_json import INLINE, from_json
from pipeline.train.arms import Arm, ArmSchedule, make_arm_schedule
from pipeline.train.schedules import ForkRates


@dataclass(frozen=True)
class Differences:
    """Treated minus baseline, lower is better."""

    step: int | None
    """Update of the last probe; None for means over a run, and if every run diverged before any probe."""
    gap_points: Estimate
    """Gap of the quantized model, percentage points."""
    fp32_nats: Estimate
    """Loss in full precision."""
    variant_nats: Estimate
    """Loss of the quantized model itself, which is what is deployed."""


@dataclass(frozen=True)
class RunTests:
    """Other tests of the gap over the run, for the certainty of the claim and for comparison with naive tests."""

    welch: Estimate
    """Test that treats the runs of the two arms as independent."""
    naive: NaiveTest
    """Test that treats the probes as independent."""
    wilcoxon_p: float | None
    """p value of the rank-sum test of the run means, exact also with ties: the test of the wins."""
    wilcoxon_p_floor: float
    """Smallest p value that this number of runs can reach in it."""
    wins: int
    """Pairs of a treated and a baseline run in which the treated one is lower; a diverged run loses."""
    pairs: int
    """Pairs of runs that do not repeat another."""
    n_distinct_runs: int
    n_distinct_baseline_runs: int
    effect_size: float | None
    """Hedges' g over runs; None where an arm has no spread."""
    detectable_points: float | None
    """Smallest true difference that is found with 80 % power after correction; None without a spread."""


@dataclass(frozen=True)
class ArmComparison:
    """One arm against the baseline, under one set of weights."""

    arm: str
    baseline: str
    weights: str
    """``live``, ``ema`` or ``lawa``."""
    probes: str
    """Phase of the compared probes; ``all`` = every probe after the start."""
    n_probes: int
    n_runs: int
    n_baseline_runs: int
    n_pairs: int
    """Seeds with finite runs of both arms, which are compared in pairs; 0 = unpaired, by Welch's test."""
    over_run: Differences
    """Differences of means over the compared probes."""
    at_end: Differences
    """Differences at the last compared probe."""
    tests: RunTests
    p_holm: float | None
    """p value of the gap over the run, corrected for the number of arms (Holm) and the looks at the data."""


@dataclass(frozen=True)
class AverageComparison:
    """Averaged weights compared with live weights of the same runs, at the probes after the start."""

    arm: str
    weights: str
    n_runs: int
    over_run: Differences
    at_end: Differences


@dataclass(frozen=True)
class WinCount:
    """Number of pairs of runs in which ``arm`` has a lower gap than ``other`` at their common probes."""

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
    """p value by permutation within seeds."""
    test: str
    held: dict[str, float]
    """Other parameters in which arms of the schedule differ, with their values."""


@dataclass(frozen=True)
class ArmFacts:
    """Facts about the runs of an arm, and their ends."""

    schedule: str
    parameters: dict[str, float]
    optimizer: str
    runs: int
    final_gap: float | None
    final_fp32_nll_nats: float | None
    mean_learning_rate: float | None = None
    """Mean over the updates of a run, including the ramp for cold moments."""


@dataclass(frozen=True, kw_only=True)
class ForkFindings:
    """All results from the table of an experiment."""

    baseline: str
    variant: str | None
    """The variant whose gap is compared; None if only fp32 was measured."""
    arms: dict[str, ArmFacts]
    diverged: tuple[str, ...]
    n_runs: int
    looks: int = 1
    """Number of looks at the data: 1, and one more each time that seeds were added."""
    comparisons: tuple[ArmComparison, ...]
    wins: tuple[WinCount, ...]
    averages: tuple[AverageComparison, ...]
    sweeps: tuple[SweepTrend, ...]

    def live(self) -> list[ArmComparison]:
        """The comparisons of live weights."""
        return [each for each in self.comparisons if each.weights == "live"]


@dataclass(frozen=True)
class ForkSettings:
    """Settings of an experiment that its page tells; the file has them all."""

    rates: ForkRates
    precision: str


@dataclass(frozen=True)
class ForkReport:
    """The contents of schedules.json. Raises ValueError for a ``config`` without the settings of a fork."""

    suite: str
    from_step: int
    start_rule: str
    sentences: tuple[str, ...]
    failures: dict[str, str]
    """Key of a run -> reason."""
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    corpus: str
    train_corpus: str
    config: dict[str, Any]
    fingerprint: str
    wall_s: float
    versions: dict[str, str]
    findings: ForkFindings = field(metadata=INLINE)

    def __post_init__(self) -> None:
        _ = self.settings

    @property
    def settings(self) -> ForkSettings:
        """What the page tells of ``config``."""
        found: ForkSettings = from_json(ForkSettings, self.config, "config")
        return found

    def schedule(self, arm: str) -> ArmSchedule:
        """Learning rates and phases of ``arm`` over the updates of a run."""
        facts = self.findings.arms[arm]
        parameters = tuple(sorted(facts.parameters.items()))
        return make_arm_schedule(Arm(facts.schedule, parameters, facts.optimizer), self.settings.rates)
