"""Results of `detect_phases` as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.analysis.trajectory.rate_response import Dose
from pipeline.analysis.trajectory.schedule_events import Predictors
from pipeline.analysis.trajectory.stages import Phase


class GrowthKind(StrEnum):
    """The three kinds of growth of a gap."""

    NONE = "none"
    """No onset and no response to the learning rate is detected; the gap may grow steadily."""
    LEARNING_RATE = "learning_rate"
    """It grows as the learning rate falls, and nothing is detected beyond that."""
    ONSET = "onset"
    """It takes off at a step, by more than a response to the learning rate (if known)."""


class Resampled(StrEnum):
    """Sources of variance that the intervals count."""

    CHECKPOINTS = "checkpoints"
    """Only the scatter of the checkpoints, for the evaluated text."""
    CHECKPOINTS_AND_TEXT = "checkpoints and text"


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """When full precision stops getting better (`convergence`)."""

    convergence_step: int | None = None
    """First step of the FP32 plateau."""
    convergence_ci: tuple[int, int] | None = None
    convergence_reason: str | None = None
    """Why there is no step."""
    convergence_share: float | None = None
    """Share of the resampled curves that converge, whether or not convergence is claimed."""
    convergence_at_limit: bool | None = None
    """Whether the step is at the limit of what the rule detects; None without a step."""
    convergence_at_or_before: bool = False
    """The plateau holds from the first used checkpoint on: the window is too short to see it begin."""
    fp32_best_step: int | None = None
    """Lowest smooth FP32 loss."""
    fp32_late_rise_nats: float | None = None
    """Smooth FP32 loss at the end minus its minimum."""
    fp32_gets_worse: bool = False
    """Whether that is more than noise and large enough to report."""


@dataclass(frozen=True, kw_only=True)
class OnsetEvidence:
    """The numbers behind the onset decision, of the best candidate, claimed or not."""

    candidate_step: int | None = None
    """The candidate and its interval; None in reports of earlier releases."""
    candidate_ci: tuple[int, int] | None = None
    growth_ratio: float | None
    """Growth after the candidate over growth before it; None where there was none before."""
    growth_scale: str
    """`gap`, `nats` or `log`: what grows in straight lines."""
    rise: float
    """Rise of the gap from the candidate to the end, unitless."""
    noise_sd: float
    """Standard deviation of one checkpoint's gap about the fitted curve, unitless."""
    noise_memory: float
    """Lag-1 autocorrelation of that noise."""


@dataclass(frozen=True, kw_only=True)
class OnsetFinding:
    """Whether and when the gap takes off."""

    growth: GrowthKind = GrowthKind.NONE
    onset_step: int | None = None
    """Step at which the gap takes off, by more than a response to the learning rate; None unless `growth` is an
    onset."""
    onset_ci: tuple[int, int] | None = None
    onset_at_or_after: bool = False
    """The onset may as well lie after the last place where one is looked for: its interval is open at the end."""
    onset_reason: str | None = None
    """Why there is no onset."""
    p_onset: float | None = None
    """Share of curves of time alone without an onset that look as strong; None where no onset can be looked for."""
    p_beyond_learning_rate: float | None = None
    """The same among curves that may answer to the learning rate; None where no rate is known."""
    dose: Dose | None = None
    """Percentage points of gap per halving of the learning rate."""
    onset_evidence: OnsetEvidence | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseReport(Convergence, OnsetFinding):
    """The phases of one trajectory, with their evidence: convergence, onset, and what they come to."""

    variant: str
    level: float
    """Coverage that every interval is made for."""
    intervals: Resampled
    phases: tuple[Phase, ...]
    no_second_phase: str | None
    """Why there is no phase 2; None where there is one."""
    predictors: Predictors
    n_used: int
    """Checkpoints that entered the fits."""
    n_not_finite: int
    """Checkpoints left out because a loss is NaN or infinite."""
    n_duplicates: int
    """Checkpoints left out because they hold the weights of an earlier one."""
