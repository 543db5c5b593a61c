"""Convergence, onset and phases of one trajectory: the rules.

Gap = exp(nll_variant - nll_fp32) - 1. Rows with a missing, NaN or infinite loss enter no fit and are
counted; rows in the first 1 % of the run enter none either (nearly untrained weights follow other laws).

Rules and thresholds, the same for every run; they were chosen on simulated curves alone:

1. Convergence: the first checkpoint after which no later tenth of the run averages more than 0.005 nats
   below the smooth FP32 loss there, if at least 15 % of the run is left and most of the resampled curves
   converge too. A late rise does not undo it, a later lower plateau does. Otherwise: not converged. The share
   of the resampled curves that converge is reported either way, and a step at the limit of what the rule sees
   is marked: it may as well lie later. In the interval, a curve that does not converge counts as the end of
   the run. (`convergence`)
2. Onset: the knot at which the gap's growth rate jumps up, under a family of models with one knot: a line,
   an early transient or saturating growth, a sharp or a soft start, growth that slows again later; on the
   scale of the gap, of nats or of the log gap, whichever fits. The point is the median and the interval the
   equal-tailed one of the knot's posterior, rounded outward to checkpoints. (`onset`, `hinges`)
3. It is an onset only if (a) curves without one, simulated from the best of them (flat, straight,
   saturating, transient, steadily accelerating, exponential) with this curve's noise, show evidence as
   strong in at most 3 % of cases; (b) growth after it is at least twice the growth just before, on the
   fitted scale; (c) the gap rises afterwards by at least 0.002 and three standard errors. Otherwise: no
   onset detected, and the reason; that is not to say that there is none. Hence growth that accelerates at a
   constant pace (exponential, quadratic) is not an onset by itself: there is no step after which it takes
   off. Growth that accelerates more than that may be called one: see the known weaknesses.
4. Phase 1 runs until convergence, 2 from there until the onset, 3 from the onset on. An onset before
   convergence (or without) ends phase 1 and leaves no phase 2; without an onset there is no phase 3.
5. The onset coincides with an event that lies within the interval of their difference, widened by one
   checkpoint. It follows an event that alone does and is not estimated after it: an effect does not come
   before its cause. If several coincide, the data cannot tell; if none does, none. (`events`)

Uncertainty: the noise of the trajectory (level, dependence on the gap, lag-1 memory) is estimated from its
own residuals. Where losses per batch are known, fits are repeated on a paired block bootstrap over batches
(the same batches for all steps and variants) and the posteriors pooled, which adds the spread between
texts.

Measured on simulated curves, 100 of each kind, noise 0.0033 as in the measured 3 M parameter trajectory
(its gap's second differences), 154 checkpoints unless short; `python -m tests.analysis.rates 100`
repeats it:

- Without an onset, 23 kinds: an onset is claimed in 0.8 % of all 2,300 curves; at most 4 % of a kind
  (accelerating as step^2), 3 % exponential, 2 % flat with memory 0.3 to 0.6, 2 % straight with 10 to 40
  rows.
- Gap 2 % to 9 %, onset anywhere from 25 % to 85 % of the run. Growth times 3: found in 97 %, median error
  1.5 checkpoints, interval covers in 93 % of all curves (a miss counts as not covering). Times 5, 10, 50,
  from zero: found in 99 % or more, error 0.7 to 1.1, covers 99 %. Gap 8 % to 17 %: 100 %, 0.7, 100 %.
- Gap 11 % to 517 %, straight or exponential pieces, sharp or soft, times 3 to infinity: 100 %, 0.2 to 0.3,
  100 %.
- With an early transient 93 %, 1.0, 89 % (the misses start before 30 % of the run); memory 0.3 96 %, 1.2,
  93 %; noise in proportion to the gap, heavy tails, NaN tail, late FP32 rise: 99 % or more, 0.5 to 1.0, 98
  % or more; 40 rows: 90 %, 0.6, 89 %.
- Too faint at this noise: gap 2 % to 9 % whose exponential rate changes, times 3: found in 73 %, error 2.8;
  times 5 and more: 81 %, error 2.0; of the 154 intervals given 153 cover. A curve like that differs from a
  steady acceleration by less than the noise when it starts early.

Known weaknesses, also measured: noise with memory 0.8 (4 % claimed) is borne, a gap that wanders like a
random walk is not (43 % claimed). Short tables lose power: of onsets times 10, 68 % are found with 24
rows, 60 % with 16, where three intervals in four cover; under 12 rows none is looked for.

A smooth curve that speeds up more than a parabola is often called an onset, because the curves without one
hold nothing like it. Gap 5 % to 12 %, noise 0.0045, memory 0.2, no break anywhere: claimed in 10 % for growth
as step^3, 45 % as step^4, 18 % where the gap is a straight function of a cosine learning rate; 98 % where it
is 0.012 / (rate / peak) under that cosine, to a tenth; 87 % for a logistic of width 0.1 of the run, whose
growth does start within a tenth of it, so that one may call it an onset. The step is then where the growth is
best cut in two, not a break. With step^3 and step^4 among the curves without an onset, 4 % and 4 % are
claimed, but 18 %, 74 % and 87 % of the others still, and of the faint onsets above 58 % and 69 % are found
instead of 73 % and 81 %; so the rule stays as it was.
"""

from __future__ import annotations

import numpy as np

from pipeline.analysis import bootstrap, events
from pipeline.analysis.convergence import TOLERANCE_NATS, ConvergenceFit, fit_convergence
from pipeline.analysis.curves import BoolArray, Curve, FloatArray, IntArray
from pipeline.analysis.findings import OnsetEvidence, Phase, PhaseReport
from pipeline.analysis.onset import MIN_POINTS, OnsetFit, fit_onset

INITIAL_SHARE = 0.01
"""Checkpoints before this share of the run are not used: nearly untrained weights follow other laws."""
MIN_CHECKPOINTS = 8
"""Fewer usable checkpoints give no answer on convergence; an onset needs ``onset.MIN_POINTS``."""
ALPHA = 0.03
"""An onset needs a smaller p-value than this (the rest of the 5 % is left to misfit)."""
MIN_GROWTH_RATIO = 2.0
"""An onset needs growth after it of at least this multiple of the growth before it."""
MIN_RISE = 0.002
"""An onset needs the gap to rise by at least this afterwards: 0.2 points of perplexity."""
MIN_RISE_SES = 3.0
"""... and by at least this many standard errors."""
MAX_GAP = 1e9
"""Larger gaps (20 nats, far beyond a uniform guess) count as diverged."""
MAX_POINTS = 400
"""Longer tables are averaged over neighbouring checkpoints to at most this many points before the fits."""
END_SHARE = 0.02
"""A best FP32 loss this close to the end of the run is not counted as reached."""
BATCH_REPLICATES = 100
"""Block-bootstrap replicates over evaluation batches."""


def detect_phases(curve: Curve, *, variant: str = "int4", seed: int = 0, level: float = 0.95) -> PhaseReport:
    """Apply the rules of this module to one trajectory.

    variant: whose gap is searched for an onset. seed: of every resampling; the same seed gives the same
    report. level: of all intervals. Raises UsageError for an unknown variant.
    """
    gap = curve.gap(variant)
    finite = np.isfinite(gap) & (gap < MAX_GAP) & np.isfinite(curve.fp32_nll_nats)
    steps_all = curve.step[finite]
    last = float(steps_all[-1]) if len(steps_all) else 0.0
    used = finite & (curve.step >= INITIAL_SHARE * last)
    step = curve.step[used]
    n_bad = int(np.sum(~finite))
    if len(step) < MIN_CHECKPOINTS:
        phases = _phases(steps_all, None, None)
        return PhaseReport(
            variant=variant,
            level=level,
            convergence_step=None,
            convergence_ci=None,
            convergence_reason=f"not converged: {_too_few(len(step), MIN_CHECKPOINTS)}",
            convergence_share=None,
            convergence_at_limit=None,
            onset_step=None,
            onset_ci=None,
            onset_reason=f"no onset detected: {_too_few(len(step), MIN_POINTS)}",
            phases=phases,
            predictors=events.judge(None, []),
            fp32_best_step=None,
            fp32_late_rise_nats=None,
            onset_evidence=None,
            n_used=len(step),
            n_not_finite=n_bad,
        )
    rng = np.random.default_rng(seed)
    x = _thin(step / last)
    fp32_b, gap_b = _batch_replicates(curve, variant, used, rng)
    convergence = fit_convergence(x, _thin(curve.fp32_nll_nats[used]), rng, replicates=fp32_b)
    fit = fit_onset(x, _thin(gap[used]), rng, replicates=gap_b)
    conv_step, conv_ci, conv_reason = _convergence(convergence, step, last, level)
    onset_reason = _why_no_onset(fit, len(step))
    onset_step, onset_ci, draws = None, None, np.empty(0)
    if fit is not None and onset_reason is None:
        draws = fit.draws * last
        onset_step = int(step[np.argmin(np.abs(step - fit.step * last))])
        onset_ci = _outward(draws, onset_step, step, level)
    spacing = float(np.median(np.diff(step)))
    candidates = [
        events.Event(events.FP32_PLATEAU, conv_step, convergence.plateau_draws * last, conv_reason),
        _best(convergence, last),
        *events.learning_rate_events(curve.step, curve.learning_rate),
    ]
    predictors = [events.compare(onset_step, draws, e, level, spacing) for e in candidates]
    return PhaseReport(
        variant=variant,
        level=level,
        convergence_step=conv_step,
        convergence_ci=conv_ci,
        convergence_reason=conv_reason,
        convergence_share=convergence.share,
        convergence_at_limit=None if conv_step is None else convergence.at_limit,
        onset_step=onset_step,
        onset_ci=onset_ci,
        onset_reason=onset_reason,
        phases=_phases(steps_all, conv_step, onset_step),
        predictors=events.judge(onset_step, predictors),
        fp32_best_step=int(step[np.argmin(np.abs(step - convergence.best * last))]),
        fp32_late_rise_nats=convergence.late_rise_nats,
        onset_evidence=_evidence(fit),
        n_used=len(step),
        n_not_finite=n_bad,
    )


def _batch_replicates(
    curve: Curve, variant: str, used: BoolArray, rng: np.random.Generator
) -> tuple[FloatArray | None, FloatArray | None]:
    variant_batches = curve.variant_batch_nll_nats.get(variant)
    if curve.fp32_batch_nll_nats is None or variant_batches is None:
        return None, None
    fp32, quantized = curve.fp32_batch_nll_nats[used], variant_batches[used]
    if fp32.shape[1] < 2 or not (np.all(np.isfinite(fp32)) and np.all(np.isfinite(quantized))):
        return None, None
    weights = bootstrap.batch_weights(rng, fp32.shape[1], BATCH_REPLICATES)
    fp32_b, gap_b = bootstrap.paired_replicates(fp32, quantized, weights)
    return _thin(fp32_b), _thin(gap_b)


def _best(fit: ConvergenceFit, last: float) -> events.Event:
    """The FP32 best, unless it is the end of the run: then the true best is still to come."""
    if fit.best >= 1 - END_SHARE:
        return events.Event(
            events.FP32_BEST, None, np.empty(0), "the FP32 loss is lowest at the end of the run"
        )
    return events.Event(events.FP32_BEST, fit.best * last, fit.best_draws * last)


def _thin(values: FloatArray) -> FloatArray:
    """Means over equal runs of rows, as few as bring the first axis down to MAX_POINTS."""
    starts = np.arange(0, len(values), -(-len(values) // MAX_POINTS))
    counts = np.diff(np.append(starts, len(values))).reshape(-1, *[1] * (values.ndim - 1))
    return np.add.reduceat(values, starts, axis=0) / counts


def _convergence(
    fit: ConvergenceFit, step: IntArray, last: float, level: float
) -> tuple[int | None, tuple[int, int] | None, str | None]:
    if fit.plateau is None:
        reason = f"not converged: FP32 still improves by more than {TOLERANCE_NATS} nats late in the run"
        if fit.share > 1 - level:
            reason += f", though {fit.share:.0%} of the resampled curves converge"
        return None, None, reason
    at = int(step[np.argmin(np.abs(step - fit.plateau * last))])
    draws = np.where(np.isfinite(fit.plateau_draws), fit.plateau_draws, 1.0) * last
    return at, _outward(draws, at, step, level), None


def _too_few(n: int, needed: int) -> str:
    return f"{n} usable checkpoints are too few: at least {needed} are needed"


def _why_no_onset(fit: OnsetFit | None, n: int) -> str | None:
    """The first rule that the best candidate breaks, None when it keeps them all."""
    if n < MIN_POINTS:
        broken = _too_few(n, MIN_POINTS)
    elif fit is None:
        broken = "too few checkpoints where one could be, or growth that nowhere speeds up"
    elif fit.p_value > ALPHA:
        broken = f"curves without one look like this too often (p = {fit.p_value:.3f} > {ALPHA})"
    elif fit.rise < max(MIN_RISE, MIN_RISE_SES * fit.rise_se):
        broken = f"the gap does not clearly rise after the best candidate ({100 * fit.rise:.2f} points)"
    elif fit.rate_after < MIN_GROWTH_RATIO * max(fit.rate_before, 0.0):
        ratio = fit.rate_after / fit.rate_before
        broken = f"growth changes only {ratio:.2f}-fold, less than {MIN_GROWTH_RATIO:g}-fold"
    else:
        return None
    return f"no onset detected: {broken}"


def _evidence(fit: OnsetFit | None) -> OnsetEvidence | None:
    if fit is None:
        return None
    ratio = fit.rate_after / fit.rate_before if fit.rate_before > 0 else None
    return OnsetEvidence(fit.p_value, ratio, fit.scale, fit.rise, fit.noise_sd, fit.noise_memory)


def _outward(draws: FloatArray, point: int, step: IntArray, level: float) -> tuple[int, int]:
    """Equal-tailed interval rounded outward to checkpoints, always holding the point."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    first = max(int(np.searchsorted(step, low, side="right")) - 1, 0)
    end = min(int(np.searchsorted(step, high, side="left")), len(step) - 1)
    return min(int(step[first]), point), max(int(step[end]), point)


def _phases(step: IntArray, convergence: int | None, onset: int | None) -> tuple[Phase, ...]:
    """Phase 1 until the first of the two events, 2 from convergence to a later onset, 3 from the onset on."""
    if not len(step):
        return ()
    end = np.iinfo(np.int64).max
    third = end if onset is None else onset
    second = third if convergence is None else min(convergence, third)
    label = np.where(step >= third, 3, np.where(step >= second, 2, 1))
    return tuple(
        Phase(k, int(step[label == k][0]), int(step[label == k][-1])) for k in (1, 2, 3) if np.any(label == k)
    )
