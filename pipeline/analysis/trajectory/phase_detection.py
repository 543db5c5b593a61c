"""Convergence, onset and phases of one trajectory: the rules.

Gap = exp(nll_variant - nll_fp32) - 1. Rows with a missing, NaN or infinite loss, rows known to hold the weights of an
earlier one, and rows in the first 1 % of the audited window enter no fit. Every share of the run is a share of that
window. Rules and thresholds are the same for every run; they were chosen on simulated curves alone:

1. **Convergence** (`convergence_step`): the first step from which on the expected FP32 loss is within 0.005 nats of the
   lowest that it still reaches, if 15 % of the window is left and most of the resampled curves converge too. A loss
   that falls by *s* nats a run and then stands still is therefore on its plateau 0.005 / *s* of the run before its
   knee. A late rise does not move the step; a later fall undoes it.
2. **Onset** (`onset_step`): the knot at which the gap's growth rate jumps up, on the scale of the gap, of nats or of
   the log gap. The step is the median of the knot's posterior; the interval is equal-tailed and rounded outward to
   checkpoints. With more than 10 % of the posterior at the last place tried, two checkpoints before the end,
   `onset_at_or_after` is true and the interval is open.
3. **Which of three** (`growth`). `onset` needs four things: (a) curves of time alone without an onset (flat, straight,
   saturating, transient, steadily accelerating, exponential), simulated with this curve's noise, look as strong in at
   most 2 % of cases (`p_onset`); (b) where the learning rate is known, so do curves that answer to the rate
   (`p_beyond_learning_rate`); (c) growth after the knot is at least twice the growth just before; (d) the gap rises
   afterwards by at least 0.002 and three standard errors. `learning_rate`: the gap grows as the rate falls, by so many
   percentage points per halving (`dose`, beside a steady growth), and nothing is detected beyond that. `none`: neither,
   or growth with the rate's fall that a steady acceleration in time explains as well. The responses to the rate are its
   logarithm, its powers -2, -1 and -1/2, the powers 1, 2, 3 of what has gone of it, and wide logistic functions, each
   with a line and an early transient, on all three scales. Without a learning rate in the table
   `p_beyond_learning_rate` is null and the sentence says what that leaves open. At a constant rate both p values are
   equal.
4. **Phases**: phase 3 runs from the onset on. Phase 2 is the stretch before it (or before the end) in which the FP32
   loss falls by at most 0.01 nats in any tenth of the window, if it lasts 5 % of it; the paper's plateau, 7,000 to
   77,000 of 143,000 steps, is one. Phase 1 comes before. Where there is no phase 2, `no_second_phase` says why.
5. **What it follows** (`predictors.follows`, with a `reason`): the one candidate event that lies within the interval of
   its difference to the onset, widened by one checkpoint; `cannot tell` if several do, `none` if none does, `no onset`,
   or `learning_rate` where a response to the rate is all that was found. Such a response names `decay_start` if that
   alone lies where time alone would have the gap take off. Point estimates do not order an event within the interval.
   Events of the rate are dated where they happen, between the checkpoints. The best FP32 loss is an event where the
   loss then rises by 0.01 nats and more than noise, apart from the plateau's interval.

The noise of the trajectory (level, dependence on the gap, lag-1 memory) is estimated from its own residuals. Where
losses per batch are known, fits are repeated on a paired block bootstrap over batches (the same batches for all steps
and variants) and the posteriors pooled, which adds the spread between texts.

docs/decision-rules.md repeats the five rules word for word (a test compares them) and has the measured error rates;
`python -m tests.analysis.trajectory.rates` measures those again. The rules are in `convergence`, `onset`, `hinges`,
`nulls`, `rate_response`, `stages` and `schedule_events`.
"""

from __future__ import annotations

import numpy as np

from pipeline.analysis.statistics.curves import Curve, FloatArray
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory import schedule_events as events
from pipeline.analysis.trajectory.audited_window import AuditedWindow, audited_window
from pipeline.analysis.trajectory.convergence import (
    LEVEL_SHARE,
    TOLERANCE_NATS,
    ConvergenceFit,
    fit_convergence,
)
from pipeline.analysis.trajectory.findings import (
    Convergence,
    GrowthKind,
    OnsetEvidence,
    OnsetFinding,
    PhaseReport,
    Resampled,
)
from pipeline.analysis.trajectory.onset import MIN_POINTS, OnsetFit, fit_onset
from pipeline.analysis.trajectory.rate_response import Dose, fit_dose
from pipeline.analysis.trajectory.stages import STAGNATION_NATS, label_phases, stagnation_start
from pipeline.base.errors import UsageError

MIN_CHECKPOINTS = 8
"""Fewer usable checkpoints give no answer on convergence; an onset needs `onset.MIN_POINTS`."""
ALPHA = 0.02
"""An onset needs smaller p-values than this (the rest of the 5 % is left to misfit)."""
MIN_GROWTH_RATIO = 2.0
"""An onset needs growth after it of at least this multiple of the growth before it."""
MIN_RISE = 0.002
"""An onset needs the gap to rise by at least this afterwards: 0.2 points of perplexity."""
MIN_RISE_SES = 3.0
"""... and by at least this many standard errors."""
END_SHARE = 0.02
"""A best FP32 loss this close to the end of the window is not counted as reached."""


def detect_phases(
    curve: Curve, *, variant: str = "int4", seed: int = 0, level: float = 0.95, n_null: int = N_NULL
) -> PhaseReport:
    """Apply the rules of this module to one trajectory.

    variant: the variant whose gap is searched for an onset. seed: seed of every resampling; equal seeds give equal
    reports. level: coverage of all intervals. n_null: simulated curves without an onset, at most; the smallest
    p-value is 1 / (n_null + 1). Raises UsageError for an unknown variant and for impossible numbers.
    """
    if seed < 0 or not 0 < level < 1 or n_null < 1:
        raise UsageError(
            f"seed {seed}, level {level}, n_null {n_null}: wanted a seed of 0 or more, a level between 0 and 1 and at "
            "least 1 simulated curve"
        )
    rng = np.random.default_rng(seed)
    window = audited_window(curve, variant, rng)
    resampled = Resampled.CHECKPOINTS if window.gap_b is None else Resampled.CHECKPOINTS_AND_TEXT
    n = len(window.step)
    convergence = Convergence(convergence_reason=f"not converged: {_too_few(n, MIN_CHECKPOINTS)}")
    onset = OnsetFinding(onset_reason=f"no onset detected: {_too_few(n, MIN_POINTS)}")
    predictors, second = events.judge(None, []), None
    if n >= MIN_CHECKPOINTS:
        fp32 = fit_convergence(window.x, window.fp32, rng, replicates=window.fp32_b)
        gap = fit_onset(window.x, window.gap, rng, rate=window.rate, replicates=window.gap_b, n_null=n_null)
        dose = fit_dose(window.x, window.gap, window.rate, rng, replicates=window.gap_b, level=level)
        convergence = _convergence(fp32, window, level)
        onset = _onset(gap, dose, window, level)
        predictors = _predictors(curve, window, (fp32, convergence), (gap, onset), level)
        at = None if onset.onset_step is None else (onset.onset_step - window.start) / window.span
        begins = stagnation_start(window.x, fp32.smooth, at)
        second = None if begins is None else window.nearest(begins)
    phases = label_phases(window.every_step, second, onset.onset_step)
    missing = None if any(p.phase == 2 for p in phases) else _why_no_second(n, onset.onset_step)
    return PhaseReport(
        **vars(convergence),
        **vars(onset),
        variant=variant,
        level=level,
        intervals=resampled,
        phases=phases,
        no_second_phase=missing,
        predictors=predictors,
        n_used=n,
        n_not_finite=window.n_not_finite,
        n_duplicates=window.n_duplicates,
    )


def _convergence(fit: ConvergenceFit, window: AuditedWindow, level: float) -> Convergence:
    step, ci, reason = None, None, None
    if fit.plateau is None:
        reason = f"not converged: FP32 still improves by more than {TOLERANCE_NATS} nats late in the run"
        if fit.share > 1 - level:
            reason += f", though {fit.share:.0%} of the resampled curves converge"
    else:
        step = window.nearest(fit.plateau)
        ci = window.outward(np.where(np.isfinite(fit.plateau_draws), fit.plateau_draws, 1.0), step, level)
    return Convergence(
        convergence_step=step,
        convergence_ci=ci,
        convergence_reason=reason,
        convergence_share=fit.share,
        convergence_at_limit=None if step is None else fit.at_limit,
        convergence_at_or_before=bool(step == window.step[0]),
        fp32_best_step=window.nearest(fit.best),
        fp32_late_rise_nats=fit.late_rise_nats,
        fp32_gets_worse=fit.gets_worse,
    )


def _onset(fit: OnsetFit | None, dose: Dose | None, window: AuditedWindow, level: float) -> OnsetFinding:
    broken = _why_no_onset(fit, len(window.step))
    reason = None if broken is None else f"no onset detected: {broken}"
    if fit is None:
        return OnsetFinding(growth=_growth_without_onset(None, dose), onset_reason=reason, dose=dose)
    step = window.nearest(fit.step)
    first, last = window.outward(fit.draws, step, level)
    ci = first, int(window.step[-1]) if fit.or_later else last
    claimed = broken is None
    return OnsetFinding(
        growth=GrowthKind.ONSET if claimed else _growth_without_onset(fit, dose),
        onset_step=step if claimed else None,
        onset_ci=ci if claimed else None,
        onset_at_or_after=claimed and fit.or_later,
        onset_reason=reason,
        p_onset=fit.p_onset,
        p_beyond_learning_rate=fit.p_beyond_rate,
        dose=dose,
        onset_evidence=OnsetEvidence(
            candidate_step=step,
            candidate_ci=ci,
            growth_ratio=fit.rate_after / fit.rate_before if fit.rate_before > 0 else None,
            growth_scale=fit.scale,
            rise=fit.rise,
            noise_sd=fit.noise_sd,
            noise_memory=fit.noise_memory,
        ),
    )


def _too_few(n: int, needed: int) -> str:
    return f"{n} usable checkpoints are too few: at least {needed} are needed"


def _why_no_onset(fit: OnsetFit | None, n: int) -> str | None:
    """The first rule that the best candidate breaks, None when it keeps them all."""
    if n < MIN_POINTS:
        return _too_few(n, MIN_POINTS)
    if fit is None:
        return "too few checkpoints where one could be, or growth that nowhere speeds up"
    beyond = fit.p_onset if fit.p_beyond_rate is None else fit.p_beyond_rate
    broken = None
    if fit.p_onset > ALPHA:
        broken = f"curves without one look like this too often (p = {fit.p_onset:.3f} > {ALPHA})"
    elif fit.rise < max(MIN_RISE, MIN_RISE_SES * fit.rise_se):
        broken = f"the gap does not clearly rise after the best candidate ({100 * fit.rise:.2f} points)"
    elif fit.rate_after < MIN_GROWTH_RATIO * max(fit.rate_before, 0.0):
        ratio = fit.rate_after / fit.rate_before
        broken = f"growth changes only {ratio:.2f}-fold, less than {MIN_GROWTH_RATIO:g}-fold"
    elif beyond > ALPHA:
        broken = f"responses to the learning rate look like this too often (p = {beyond:.3f} > {ALPHA})"
    return broken


def _growth_without_onset(fit: OnsetFit | None, dose: Dose | None) -> GrowthKind:
    """Growth with the rate's fall needs a dose clear of 0, and a response that fits better than time alone."""
    if dose is None or dose.lower <= 0:
        return GrowthKind.NONE
    better = fit is None or fit.p_onset <= ALPHA or (fit.rate_log_odds is not None and fit.rate_log_odds > 0)
    return GrowthKind.LEARNING_RATE if better else GrowthKind.NONE


def _predictors(
    curve: Curve,
    window: AuditedWindow,
    fp32: tuple[ConvergenceFit, Convergence],
    gap: tuple[OnsetFit | None, OnsetFinding],
    level: float,
) -> events.Predictors:
    convergence, found = fp32
    fit, onset = gap
    standstill = _standstill(convergence, window)
    candidates = [
        events.Event(events.FP32_PLATEAU, found.convergence_step, standstill, found.convergence_reason),
        _best(convergence, found, window),
        *events.learning_rate_events(curve.step, curve.learning_rate),
    ]
    spacing = float(np.median(np.diff(window.step)))
    draws = np.empty(0) if fit is None else window.steps_at(fit.draws)
    compared = [events.compare(onset.onset_step, draws, event, level, spacing) for event in candidates]
    if onset.growth is not GrowthKind.LEARNING_RATE:
        return events.judge(onset.onset_step, compared)
    candidate = None
    if fit is not None and onset.onset_evidence is not None and fit.p_onset <= ALPHA:
        at = onset.onset_evidence.candidate_step
        compared_with_it = [events.compare(at, draws, event, level, spacing) for event in candidates]
        candidate = events.judge(at, compared_with_it)
    return events.judge_response(candidate, compared)


def _standstill(fit: ConvergenceFit, window: AuditedWindow) -> FloatArray:
    """Steps at which full precision may have come to stand still, for the comparison with the onset.

    The plateau begins within the tolerance of the level that is reached; a loss that goes on falling as before reaches
    the level itself a little later. Between the two any step may be it. Without a plateau in a replicate: the end.
    """
    draws = np.where(np.isfinite(fit.plateau_draws), fit.plateau_draws, 1.0)
    if fit.plateau is None:
        return window.steps_at(fit.plateau_draws)
    before = np.interp([fit.plateau - LEVEL_SHARE / 2, fit.plateau], window.x, fit.smooth)
    slope = max(float(before[0] - before[1]) / (LEVEL_SHARE / 2), TOLERANCE_NATS / LEVEL_SHARE)
    share = np.random.default_rng(0).permutation((np.arange(len(draws)) + 0.5) / len(draws))
    return window.steps_at(np.minimum(draws + share * TOLERANCE_NATS / slope, 1.0))


def _best(fit: ConvergenceFit, found: Convergence, window: AuditedWindow) -> events.Event:
    """The FP32 best: an event of its own where the loss gets worse after it, and apart from the plateau's start."""
    step = float(window.steps_at(np.array([fit.best]))[0])
    if fit.best >= 1 - END_SHARE:
        why = "the FP32 loss is lowest at the end of the run"
    elif not fit.gets_worse:
        why = "the FP32 loss does not clearly rise after its lowest point"
    elif (ci := found.convergence_ci) is not None and ci[0] <= step <= ci[1]:
        why = "it lies within the interval of the FP32 plateau"
    else:
        return events.Event(events.FP32_BEST, step, window.steps_at(fit.best_draws))
    return events.absent(events.FP32_BEST, why)


def _why_no_second(n_used: int, onset: int | None) -> str:
    if n_used < MIN_CHECKPOINTS:
        return "too few checkpoints"
    until = "the end" if onset is None else "the onset"
    pace = f"more than {STAGNATION_NATS} nats in a tenth of the run"
    return f"full precision improves by {pace} until shortly before {until}"
