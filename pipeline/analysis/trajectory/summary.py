"""Summary of one trajectory's curves for report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import Curve, FloatArray, IntArray, gap_from_nll
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory.findings import PhaseReport
from pipeline.analysis.trajectory.kurtosis import KurtosisTest, kurtosis_test
from pipeline.analysis.trajectory.phase_detection import detect_phases
from pipeline.analysis.trajectory.words import verdict

Json = dict[str, object]


@dataclass(frozen=True)
class GapSummary:
    """Gaps (unitless, 0.11 = 11 %) over the finite checkpoints; None for a variant not in the table."""

    int4_gap_first: float | None
    int4_gap_last: float | None
    int4_gap_max: float | None
    int8_gap_max: float | None
    best_checkpoint_for_int4: int | None
    """Step with the lowest INT4 loss."""


def summarise_gaps(
    step: IntArray, fp32_nll_nats: FloatArray, variant_nll_nats: Mapping[str, FloatArray]
) -> GapSummary:
    """First, last and largest gap of int4, and the largest of int8, from losses of any number of checkpoints."""
    gaps = {name: _finite(gap_from_nll(nll, fp32_nll_nats)) for name, nll in variant_nll_nats.items()}
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


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


@dataclass(frozen=True)
class Summary:
    """Phases, gaps and the kurtosis test of one trajectory."""

    n_checkpoints: int
    phases: PhaseReport
    gaps: GapSummary
    kurtosis_test: KurtosisTest

    def to_json(self) -> Json:
        """The analysis keys of report.json, with `verdict`: the same in sentences."""
        return {
            "n_checkpoints": self.n_checkpoints,
            **self.phases.to_json(),
            **vars(self.gaps),
            "kurtosis_test": self.kurtosis_test.to_json(),
            "verdict": verdict(self.phases),
        }


def summarise(
    curve: Curve, *, variant: str = "int4", seed: int = 0, level: float = 0.95, n_null: int = N_NULL
) -> Summary:
    """Run every analysis on one curve, with at most `n_null` simulated ones; UsageError for an unknown variant."""
    report = detect_phases(curve, variant=variant, seed=seed, level=level, n_null=n_null)
    third = np.array([p == 3 for p in report.phase_of(curve.step)]) & curve.first_of_its_content
    if report.onset.step is None:
        test = KurtosisTest(0, reason="no onset, hence no phase 3")
    else:
        kurtosis = None if curve.kurtosis is None else curve.kurtosis[third]
        test = kurtosis_test(kurtosis, curve.gap(variant)[third], curve.step[third], seed=seed, level=level)
    gaps = summarise_gaps(curve.step, curve.fp32_nll_nats, curve.variant_nll_nats)
    return Summary(len(curve.step), report, gaps, test)
