"""What `phases.detect_phases` finds, as named results that know their place in report.json."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.analysis import events
from pipeline.analysis.curves import IntArray

Json = dict[str, object]


@dataclass(frozen=True)
class Phase:
    """Checkpoints `first_step` to `last_step`, both included, belong to phase 1, 2 or 3."""

    phase: int
    first_step: int
    last_step: int


@dataclass(frozen=True)
class OnsetEvidence:
    """The numbers behind the onset decision."""

    p_value: float
    growth_ratio: float | None
    """Growth after the onset over growth before it; None where there was none before."""
    growth_scale: str
    """`gap`, `nats` or `log`: what grows in straight lines."""
    rise: float
    """Rise of the gap from the onset to the end, unitless."""
    noise_sd: float
    """Standard deviation of one checkpoint's gap about the fitted curve, unitless."""
    noise_memory: float
    """Lag-1 autocorrelation of that noise."""

    def to_json(self) -> Json:
        """All fields, by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class PhaseReport:
    """What one trajectory shows. None = it does not; the matching reason says why."""

    variant: str
    level: float
    convergence_step: int | None
    convergence_ci: tuple[int, int] | None
    convergence_reason: str | None
    convergence_share: float | None
    """Share of the resampled curves that converge, whether or not convergence is claimed."""
    convergence_at_limit: bool | None
    """Whether the convergence step lies at the limit of what its rule sees (`convergence`)."""
    onset_step: int | None
    onset_ci: tuple[int, int] | None
    onset_reason: str | None
    phases: tuple[Phase, ...]
    predictors: events.Predictors
    fp32_best_step: int | None
    fp32_late_rise_nats: float | None
    """Smooth FP32 loss at the end minus its minimum."""
    onset_evidence: OnsetEvidence | None
    n_used: int
    """Checkpoints that entered the fits."""
    n_not_finite: int
    """Checkpoints left out because a loss is NaN or infinite."""

    def to_json(self) -> Json:
        """The keys of report.json that this report answers; no NaN, null for what does not exist."""
        return {
            "variant": self.variant,
            "level": self.level,
            "convergence_step": self.convergence_step,
            "convergence_ci": None if self.convergence_ci is None else list(self.convergence_ci),
            "convergence_reason": self.convergence_reason,
            "convergence_share": self.convergence_share,
            "convergence_at_limit": self.convergence_at_limit,
            "onset_step": self.onset_step,
            "onset_ci": None if self.onset_ci is None else list(self.onset_ci),
            "onset_reason": self.onset_reason,
            "phases": [dict(vars(p)) for p in self.phases],
            "predictors": self.predictors.to_json(),
            "fp32_best_step": self.fp32_best_step,
            "fp32_late_rise_nats": self.fp32_late_rise_nats,
            "onset_evidence": None if self.onset_evidence is None else self.onset_evidence.to_json(),
            "n_used": self.n_used,
            "n_not_finite": self.n_not_finite,
        }

    def phase_of(self, step: IntArray) -> list[int | None]:
        """Phase of each step (None outside the finite part of the run); step: (n,)."""
        return [next((p.phase for p in self.phases if p.first_step <= s <= p.last_step), None) for s in step]
