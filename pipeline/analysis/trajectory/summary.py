"""Summary of one trajectory's curves for report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from pipeline.analysis.statistics.curves import Curve, FloatArray, IntArray, gap_from_nll
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory.findings import GrowthKind, OnsetEvidence, Resampled
from pipeline.analysis.trajectory.kurtosis import KurtosisTest, kurtosis_test
from pipeline.analysis.trajectory.phase_detection import detect_phases
from pipeline.analysis.trajectory.rate_response import Dose
from pipeline.analysis.trajectory.schedule_events import Predictors
from pipeline.analysis.trajectory.stages import Phase, phase_of
from pipeline.analysis.trajectory.words import verdict
from pipeline.base.typed_json import INLINE


@dataclass(frozen=True)
class GapSummary:
    """Gaps (unitless, 0.11 = 11 %) over the finite checkpoints; None for a variant not in the table."""

    int4_gap_first: float | None = None
    int4_gap_last: float | None = None
    int4_gap_max: float | None = None
    int8_gap_max: float | None = None
    best_checkpoint_for_int4: int | None = None
    """Step with the lowest INT4 loss."""


def summarise_gaps(
    step: IntArray, fp32_nll_nats: FloatArray, variant_nll_nats: Mapping[str, FloatArray]
) -> GapSummary:
    """First, last and largest gap of int4, and the largest of int8, from losses of any number of checkpoints."""
    gaps = {name: gap_from_nll(nll, fp32_nll_nats) for name, nll in variant_nll_nats.items()}
    gaps = {name: gap[np.isfinite(gap)] for name, gap in gaps.items()}
    int4, int8 = (gaps.get(name, np.empty(0)) for name in ("int4", "int8"))
    nll = variant_nll_nats.get("int4", np.empty(0))
    known = np.flatnonzero(np.isfinite(nll))
    return GapSummary(
        int4_gap_first=float(int4[0]) if len(int4) else None,
        int4_gap_last=float(int4[-1]) if len(int4) else None,
        int4_gap_max=float(int4.max()) if len(int4) else None,
        int8_gap_max=float(int8.max()) if len(int8) else None,
        best_checkpoint_for_int4=int(step[known[np.argmin(nll[known])]]) if len(known) else None,
    )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The :class:`PhaseReport` of one trajectory, its gaps and sentences, field by field as report.json has it.

    None: it does not exist (``..._reason`` says why), there are no curves to analyse, or an earlier release wrote the
    report. What the fields mean is documented in ``findings``.
    """

    variant: str | None = None
    level: float | None = None
    intervals: Resampled | None = None
    convergence_step: int | None = None
    convergence_ci: tuple[int, int] | None = None
    convergence_reason: str | None = None
    convergence_share: float | None = None
    convergence_at_limit: bool | None = None
    convergence_at_or_before: bool | None = None
    growth: GrowthKind | None = None
    onset_step: int | None = None
    onset_ci: tuple[int, int] | None = None
    onset_at_or_after: bool | None = None
    onset_reason: str | None = None
    p_onset: float | None = None
    p_beyond_learning_rate: float | None = None
    dose: Dose | None = None
    phases: tuple[Phase, ...] = ()
    no_second_phase: str | None = None
    predictors: Predictors | None = None
    fp32_best_step: int | None = None
    fp32_late_rise_nats: float | None = None
    onset_evidence: OnsetEvidence | None = None
    n_used: int | None = None
    n_not_finite: int | None = None
    n_duplicates: int | None = None
    gaps: GapSummary = field(default=GapSummary(), metadata=INLINE)
    kurtosis_test: KurtosisTest | None = None
    verdict: tuple[str, ...] = ()
    """The same in sentences."""


def summarise(
    curve: Curve,
    *,
    variant: str = "int4",
    seed: int = 0,
    n_null: int = N_NULL,
    names: Mapping[str, str] | None = None,
) -> Summary:
    """Run every analysis on one curve, with at most `n_null` simulated ones; UsageError for an unknown variant.

    ``names``: column prefix -> name of the variants for the sentences.
    """
    report = detect_phases(curve, variant=variant, seed=seed, n_null=n_null)
    third = np.array([p == 3 for p in phase_of(report.phases, curve.step)]) & curve.first_of_its_content
    if report.onset_step is None:
        test = KurtosisTest(0, reason="no onset, hence no phase 3")
    else:
        kurtosis = None if curve.kurtosis is None else curve.kurtosis[third]
        test = kurtosis_test(kurtosis, curve.gap(variant)[third], curve.step[third], seed=seed)
    known = {each.name: getattr(report, each.name) for each in fields(Summary) if hasattr(report, each.name)}
    gaps = summarise_gaps(curve.step, curve.fp32_nll_nats, curve.variant_nll_nats)
    return Summary(**known, gaps=gaps, kurtosis_test=test, verdict=tuple(verdict(report, names)))
