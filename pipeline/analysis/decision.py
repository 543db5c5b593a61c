"""The decision which checkpoint to ship under one variant: the best one, those that may be best, and the cost of
others.

The decision is made on the quantized model's own loss, never on its gap: a gap can grow while that loss still falls.
Checkpoints are fixed, texts are the sample: mu_t is the mean loss of checkpoint t over all texts of the corpus, and
every interval counts the evaluation text alone, paired, because all checkpoints saw the same tokens.

Both sets rest on the studentized differences (L_t - L_s) / se_ts of all pairs of checkpoints, with se_ts from the means
of blocks of neighbouring units (texts of one document fall into neighbouring units), and on the same differences in a
circular block bootstrap that all pairs share. Units are sequences where their losses are kept, else batches of them:
many short blocks give narrower intervals than few long ones, where the text allows short ones.

- ``maybe_best`` inverts, for every t, the test of "no checkpoint is better than t": the pointwise relative of the model
  confidence set of Hansen, Lunde and Nason (Econometrica 2011). It covers the true best checkpoint with ``level``.
- ``regret_at_most`` bounds mu_t - min mu for all t at once, so that it holds for a t chosen after looking.

With m blocks the bootstrap's spread is too small by sqrt((m-1)/m) and its tail is normal: critical values are widened
by that factor and moved to the same quantile of Student's t with m - 1 degrees of freedom. ``tests/analysis/
test_decision.py`` measures the coverage; without the two corrections it is 0.85 to 0.95 for 32 units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from pipeline.analysis.statistics.bootstrap import BATCH_BLOCK, block_indices
from pipeline.analysis.statistics.curves import BoolArray, FloatArray, IntArray
from pipeline.base.english import counted
from pipeline.base.errors import UsageError

TOLERANCE_NATS = 0.01
"""Regret up to which a choice is good enough, nats: one percent of perplexity."""
N_REPLICATES = 1_000
LATE_SHARE = 0.3
"""The lowest gap is searched after this share of the audited window, because it is zero before training."""
CORRELATED = 0.1
"""Correlation between neighbouring blocks of text that shortens intervals by five percent."""
MOST_UNITS = 1024
"""More pieces of text tell no more of their scatter; neighbours are put together before the bootstrap."""
SAME_NATS = 1e-6
"""Losses of equal weights differ by less on any device."""
MIN_BLOCKS = 4
"""Fewest blocks of text that show the scatter between texts."""


@dataclass(frozen=True)
class DecisionSettings:
    """Settings of the decision: tolerance and level."""

    tolerance_nats: float = TOLERANCE_NATS
    """Loss that a choice may cost and still be good enough."""
    level: float = 0.95
    """Coverage of the sets and bounds."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance_nats) and self.tolerance_nats >= 0):
            raise UsageError(f"tolerance {self.tolerance_nats}: wanted a finite number of nats, 0 or more")
        if not 0.5 <= self.level < 1:
            raise UsageError(f"level {self.level}: wanted a share from 0.5 up to, but not, 1")

    def changed(self, tolerance_nats: float | None, level: float | None) -> DecisionSettings:
        """With another tolerance or level, where one is given."""
        tolerance = self.tolerance_nats if tolerance_nats is None else tolerance_nats
        return DecisionSettings(tolerance, self.level if level is None else level)


DEFAULTS = DecisionSettings()


@dataclass(frozen=True)
class Regret:
    """Cost of shipping one checkpoint instead of the best, in nats per token of the quantized model."""

    step: int
    estimate: float
    """Its mean loss minus the lowest one."""
    lower: float
    upper: float
    """Bounds that hold for all checkpoints at once."""
    perplexity_share: float
    """The estimate as a relative increase of perplexity (0.01 = 1 %)."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision for one trajectory and variant."""

    variant: str
    best_step: int
    """The lowest mean loss."""
    maybe_best: tuple[int, ...]
    """Steps that the text cannot distinguish from the best one."""
    good_enough: tuple[int, ...]
    """Steps whose regret is at most ``tolerance_nats``, for all of them at once."""
    tolerance_nats: float
    level: float
    earliest_good_enough: int | None
    tokens_saved: float | None
    """Share of the training up to the last checkpoint that the earliest good enough one saves; None if none is good
    enough."""
    regret_of_last: Regret
    regret_of_fp32_best: Regret
    """The checkpoint with the lowest full-precision loss."""
    regret_of_lowest_gap: Regret
    """The checkpoint with the lowest gap, after the first ``LATE_SHARE`` of the audited window."""
    unit: str = "batch"
    """Pieces of text that the intervals rest on: ``sequence``, or ``batch`` where no losses per sequence are kept."""
    n_units: int
    """Their number."""
    block: int = BATCH_BLOCK
    """Neighbouring pieces that were kept together."""
    n_checkpoints: int
    """Distinct checkpoints with finite losses."""


@dataclass(frozen=True)
class Undecided:
    """Reason why no checkpoint can be chosen."""

    variant: str
    reason: str


def decide(
    step: IntArray,
    losses_TU: FloatArray,
    fp32_losses_TU: FloatArray,
    *,
    variant: str,
    tokens_seen: FloatArray | None = None,
    distinct: BoolArray | None = None,
    unit: str = "batch",
    blocks: Sequence[int] = (BATCH_BLOCK,),
    settings: DecisionSettings = DEFAULTS,
    seed: int = 0,
) -> Decision | Undecided:
    """The decision for T checkpoints in order of training, measured on the same U pieces of text.

    ``losses_TU``, ``fp32_losses_TU``: nats per token of equally long pieces, (T, U). ``tokens_seen``: (T,), what
    ``tokens_saved`` is a share of; steps where None. ``distinct``: (T,), False where a checkpoint repeats an earlier
    one. ``unit``: what a piece of text is; ``blocks``: how many neighbouring pieces may be kept together
    (:func:`uncorrelated_block`). A checkpoint whose loss is not finite is left out.
    """
    losses_TU, fp32_losses_TU = _coarser(losses_TU), _coarser(fp32_losses_TU)
    finite = np.isfinite(losses_TU).all(axis=1) & np.isfinite(fp32_losses_TU).all(axis=1)
    usable = finite if distinct is None else finite & distinct
    if reason := _too_few(int(usable.sum()), losses_TU.shape[1], MIN_BLOCKS * min(blocks)):
        return Undecided(variant, reason)
    seen = np.asarray(step if tokens_seen is None else tokens_seen, dtype=np.float64)
    last_seen, last_step, last_losses_U = seen[-1], int(step[finite][-1]), losses_TU[finite][-1]
    step, losses, fp32, seen = step[usable], losses_TU[usable], fp32_losses_TU[usable], seen[usable]
    mean = losses.mean(axis=1)
    block = uncorrelated_block(losses, blocks)
    pairs = _Pairs(losses, block, np.random.default_rng(seed))
    keep = pairs.may_be_best(settings.level)
    q = pairs.simultaneous(settings.level)
    lower, upper = pairs.regret_bounds(q)
    regrets = [
        Regret(int(at), float(cost), float(low), float(high), float(np.expm1(cost)))
        for at, cost, low, high in zip(step, mean - mean.min(), lower, upper, strict=True)
    ]
    good = np.flatnonzero(upper <= settings.tolerance_nats)
    gap = mean - fp32.mean(axis=1)
    late = np.flatnonzero(seen >= seen[0] + LATE_SHARE * (seen[-1] - seen[0]))
    return Decision(
        variant=variant,
        best_step=int(step[np.argmin(mean)]),
        maybe_best=tuple(step[keep].tolist()),
        good_enough=tuple(step[good].tolist()),
        tolerance_nats=settings.tolerance_nats,
        level=settings.level,
        earliest_good_enough=int(step[good[0]]) if len(good) else None,
        tokens_saved=float(1 - seen[good[0]] / last_seen) if len(good) and last_seen > 0 else None,
        regret_of_last=_of_last(regrets, losses, last_step, last_losses_U),
        regret_of_fp32_best=regrets[int(np.argmin(fp32.mean(axis=1)))],
        regret_of_lowest_gap=regrets[int(late[np.argmin(gap[late])])],
        unit=unit,
        n_units=losses_TU.shape[1],
        block=block,
        n_checkpoints=len(step),
    )


def _of_last(regrets: Sequence[Regret], losses_TU: FloatArray, step: int, losses_U: FloatArray) -> Regret:
    """The regret of the last checkpoint, at ``step`` with ``losses_U``: its own, or that of the earlier one whose
    weights it repeats. Without that one, of the last distinct checkpoint.
    """
    twin = int(np.argmin(np.abs(losses_TU - losses_U).sum(axis=1)))
    if np.abs(losses_TU[twin] - losses_U).max() > SAME_NATS:
        return regrets[-1]
    return replace(regrets[twin], step=step)


def _too_few(n_checkpoints: int, n_pieces: int, wanted: int) -> str:
    """Why nothing can be decided; empty where it can."""
    if n_checkpoints < 2:
        return f"{counted(n_checkpoints, 'distinct checkpoint')} with finite losses: wanted 2 at least"
    return f"{n_pieces} pieces of text are too few: wanted {wanted} at least" if n_pieces < wanted else ""


def _coarser(losses_TU: FloatArray) -> FloatArray:
    """At most ``MOST_UNITS`` pieces: means of neighbouring ones, of which fewer than go into one are left out at the
    end.
    """
    together = -(-losses_TU.shape[1] // MOST_UNITS)
    whole = losses_TU.shape[1] // together * together
    return (
        losses_TU[:, :whole].reshape(len(losses_TU), -1, together).mean(axis=2) if together > 1 else losses_TU
    )


def uncorrelated_block(losses_TU: FloatArray, blocks: Sequence[int]) -> int:
    """The shortest of ``blocks`` whose neighbouring means have at most the correlation ``CORRELATED``, in what the
    losses (T, U) of one text differ by between checkpoints; the longest that there are ``MIN_BLOCKS`` of, where none.
    """
    lengths = [length for length in sorted(blocks) if losses_TU.shape[1] // length >= MIN_BLOCKS]
    for length in lengths[:-1]:
        n_blocks = losses_TU.shape[1] // length
        means_TM = losses_TU[:, : n_blocks * length].reshape(len(losses_TU), n_blocks, length).mean(axis=2)
        own_TM = means_TM - means_TM.mean(axis=1, keepdims=True)
        own_TM -= own_TM.mean(axis=0)
        power = np.sum(own_TM**2)
        # 1 / M makes up for the means that were taken out.
        if power == 0 or np.sum(own_TM[:, 1:] * own_TM[:, :-1]) / power + 1 / n_blocks <= CORRELATED:
            return length
    return lengths[-1]


class _Pairs:
    """Studentized differences of all pairs of checkpoints, on the text and in its bootstrap replicates."""

    def __init__(self, losses_TU: FloatArray, block: int, rng: np.random.Generator) -> None:
        n_units = losses_TU.shape[1]
        self._blocks = n_units // block
        whole = losses_TU[:, : self._blocks * block]
        means_TM = whole.reshape(len(losses_TU), self._blocks, block).mean(axis=2)
        # Var(a - b) = Var a + Var b - 2 Cov(a, b), but summed from the differences themselves: near-equal checkpoints
        # would lose all digits in the other form.
        self._se_TT = np.empty((len(losses_TU), len(losses_TU)))
        for t, row in enumerate(means_TM):
            self._se_TT[t] = (row - means_TM).std(axis=1, ddof=1) / np.sqrt(self._blocks)
        mean_T = losses_TU.mean(axis=1)
        self._difference_TT = mean_T[:, None] - mean_T
        picks = block_indices(rng, n_units, block, N_REPLICATES)
        weights = np.zeros((N_REPLICATES, n_units))
        np.add.at(weights, (np.arange(N_REPLICATES)[:, None], picks), 1 / n_units)
        centred_RT = weights @ (losses_TU - mean_T[:, None]).T
        self._largest_TR = np.empty((len(losses_TU), N_REPLICATES))
        for t, se_T in enumerate(self._se_TT):
            self._largest_TR[t] = _ratio(centred_RT[:, t, None] - centred_RT, se_T).max(axis=1)

    def may_be_best(self, level: float) -> BoolArray:
        """(T,): whether no checkpoint is significantly better than t; the critical value is t's own."""
        critical_T = self._corrected(np.quantile(self._largest_TR, level, axis=1))
        return np.asarray(_ratio(self._difference_TT, self._se_TT).max(axis=1) <= critical_T)

    def simultaneous(self, level: float) -> float:
        """Bound on the differences of all pairs, in standard errors, with probability ``level``."""
        return float(self._corrected(np.quantile(self._largest_TR.max(axis=0), level)))

    def regret_bounds(self, q: float) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds on mu_t - min mu, each (T,), if every difference lies within ``q`` errors."""
        lower = (self._difference_TT - q * self._se_TT).max(axis=1)
        upper = (self._difference_TT + q * self._se_TT).max(axis=1)
        return np.maximum(lower, 0.0), np.maximum(upper, 0.0)

    def _corrected(self, quantile: FloatArray | float) -> FloatArray:
        """Bootstrap quantiles corrected for few blocks."""
        widened = quantile * np.sqrt(self._blocks / (self._blocks - 1))
        return np.asarray(stats.t.isf(stats.norm.sf(widened), self._blocks - 1))


def _ratio(difference: FloatArray, se: FloatArray) -> FloatArray:
    """``difference / se``; zero if both are zero (a checkpoint and itself), infinite if the text never varies."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(difference) <= 1e-15, 0.0, difference / se)
