"""Replay the monitor on an audited run, and compute what other stopping rules would have cost.

A rule that stops ships the checkpoint with the lowest quantized loss so far; its regret is the cost of stopping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.decision import SAME_NATS
from pipeline.analysis.statistics.curves import Curve, FloatArray, IntArray
from pipeline.analysis.trajectory.convergence import fit_convergence
from pipeline.base.english import counted
from pipeline.base.errors import UsageError, unknown_name
from pipeline.base.typed_json import to_json
from pipeline.monitor.judging import Judge, RateOutlook, WatchSettings
from pipeline.monitor.verdicts import Observed, Verdict, finite_or_nan

PATIENCE = 3
"""Checkpoints in a row without a new lowest loss."""
MIN_CHECKPOINTS = 8
"""Fewest checkpoints for a plateau, as in ``phases``."""


@dataclass(frozen=True)
class RuleOutcome:
    """Outcome of one rule."""

    rule: str
    stopped_at: int | None
    """Step; None = it trained to the end."""
    shipped_step: int
    delay_steps: int | None
    """Steps from the best checkpoint in hindsight to the stop, negative = before it; None without a stop."""
    regret_nats: float
    """Quantized loss of the shipped checkpoint minus the lowest of the run."""


def outcomes(
    step: IntArray,
    fp32: FloatArray,
    quantized: FloatArray,
    settings: WatchSettings,
    *,
    ours: int | None,
    last: int,
) -> list[RuleOutcome]:
    """Every rule on finite losses (n,) in nats; ``ours``: index of the checkpoint where the monitor advised a stop;
    ``last``: of the one with the weights of the run's end.
    """
    best = int(np.argmin(quantized))

    def outcome(rule: str, stop: int | None, shipped: int | None = None) -> RuleOutcome:
        if shipped is None:
            shipped = int(np.argmin(quantized if stop is None else quantized[: stop + 1]))
        return RuleOutcome(
            rule=rule,
            stopped_at=None if stop is None else int(step[stop]),
            shipped_step=int(step[shipped]),
            delay_steps=None if stop is None else int(step[stop] - step[best]),
            regret_nats=float(quantized[shipped] - quantized[best]),
        )

    return [
        outcome("monitor", ours),
        outcome("last checkpoint", None, last),
        outcome("best fp32", None, int(np.argmin(fp32))),
        outcome("stop at the fp32 plateau", plateau(step, fp32)),
        outcome("stop when the gap grows", gap_grows(step, quantized - fp32, settings)),
        outcome(f"patience {PATIENCE}", out_of_patience(quantized)),
    ]


def plateau(step: IntArray, fp32: FloatArray) -> int | None:
    """Index of the first checkpoint on the FP32 plateau, which ``phases`` finds in hindsight; None without one."""
    if len(step) < MIN_CHECKPOINTS:
        return None
    x = (step - step[0]) / (step[-1] - step[0])
    start = fit_convergence(x, fp32, np.random.default_rng(0)).plateau
    return None if start is None else int(np.argmin(np.abs(x - start)))


def gap_grows(step: IntArray, gap_nats: FloatArray, settings: WatchSettings) -> int | None:
    """Index at which the monitor's own rule, applied to the gap, raises its alarm; None if never."""
    rule = settings.fresh_rule()
    for index, (each, gap) in enumerate(zip(step, gap_nats, strict=True)):
        if rule.observe(int(each), float(gap), planned=len(step)) is not None:
            return index
    return None


def out_of_patience(quantized: FloatArray) -> int | None:
    """Index of the ``PATIENCE``-th checkpoint in a row without a new lowest loss; None if there is none."""
    lowest, waited = np.inf, 0
    for index, loss in enumerate(quantized):
        lowest, waited = (loss, 0) if loss < lowest else (lowest, waited + 1)
        if waited == PATIENCE:
            return index
    return None


@dataclass(frozen=True)
class Replay:
    """The replay of one run."""

    variant: str
    best_step: int
    """Step of the lowest quantized loss, in hindsight."""
    verdicts: tuple[tuple[int, Verdict], ...]
    """Step and verdict of every checkpoint."""
    rules: tuple[RuleOutcome, ...]

    @property
    def alarm_step(self) -> int | None:
        """Step of the alarm; None without one."""
        return next((step for step, verdict in self.verdicts if verdict.alarm), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite becomes null."""
        return {
            "variant": self.variant,
            "n_checkpoints": len(self.verdicts),
            "best_step": self.best_step,
            "alarm_step": self.alarm_step,
            "rules": to_json(self.rules),
            "verdicts": [{"step": step, **to_json(verdict)} for step, verdict in self.verdicts],
        }


def replay(curve: Curve, variant: str = "int4", **settings: Any) -> Replay:
    """The verdicts on ``curve``; its learning rates count as a plan known from the start.

    A checkpoint that repeats an earlier one's weights is left out. ``settings``: of :class:`WatchSettings`. Raises
    UsageError for a variant that was not measured, and if fewer than two losses are finite.
    """
    if variant not in curve.variant_nll_nats:
        raise unknown_name("variant", variant, curve.variant_nll_nats)
    kept = np.ones(len(curve.step), dtype=bool) if curve.duplicate is None else ~curve.duplicate
    step, fp32, quantized = curve.step[kept], curve.fp32_nll_nats[kept], curve.variant_nll_nats[variant][kept]
    rates = None if curve.learning_rate is None else curve.learning_rate[kept]
    finite = np.isfinite(fp32) & np.isfinite(quantized)
    if finite.sum() < 2:
        raise UsageError(
            f"{curve.name}: {counted(int(finite.sum()), 'checkpoint')} with finite losses: wanted 2 at least"
        )
    watch = WatchSettings(plan_steps=max(int(step[-1]), 1), observations=len(step), **settings)
    judge = Judge(watch, _outlook(step, rates), variant)
    verdicts = []
    for index, each in enumerate(step):
        losses = {"fp32": finite_or_nan(float(fp32[index])), variant: finite_or_nan(float(quantized[index]))}
        rate = None if rates is None or not math.isfinite(rates[index]) else float(rates[index])
        verdicts.append((int(each), judge.observe(Observed(int(each), losses, rate))))
    stop = next((at for at, verdict in verdicts if verdict.stop_advice), None)
    ours = None if stop is None else int(np.searchsorted(step[finite], stop))
    last = _same_as_last(curve, variant, np.stack([fp32[finite], quantized[finite]]))
    rules = outcomes(step[finite], fp32[finite], quantized[finite], watch, ours=ours, last=last)
    best = int(step[finite][np.argmin(quantized[finite])])
    return Replay(variant, best, tuple(verdicts), tuple(rules))


def _same_as_last(curve: Curve, variant: str, losses_2n: FloatArray) -> int:
    """Index in ``losses_2n`` (fp32 and the variant, nats) of the run's last checkpoint, or of the earlier one whose
    weights it repeats; without that one, of the last of them.
    """
    every = np.stack([curve.fp32_nll_nats, curve.variant_nll_nats[variant]])
    last_2 = every[:, np.isfinite(every).all(axis=0)][:, -1:]
    distance = np.abs(losses_2n - last_2).max(axis=0)
    equal = np.flatnonzero(distance <= SAME_NATS)
    return int(equal[-1]) if len(equal) else losses_2n.shape[1] - 1


def _outlook(step: Any, rates: Any) -> RateOutlook:
    last = max(int(step[-1]), 1)
    if rates is None or not np.isfinite(rates).any():
        return RateOutlook(last)
    known = np.isfinite(rates)
    return RateOutlook(last, planned_rate=lambda at: float(np.interp(at, step[known], rates[known])))
