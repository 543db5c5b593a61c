"""Replay the monitor on an audited run, and compute what other rules would have cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.statistics.curves import Curve
from pipeline.base.errors import UsageError, unknown_name
from pipeline.base.typed_json import to_json
from pipeline.monitor.judging import Judge, WatchSettings
from pipeline.monitor.rate_outlook import RateOutlook
from pipeline.monitor.stopping_rules import RuleOutcome, outcomes
from pipeline.monitor.verdicts import Observed, Verdict, finite_or_nan


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
            f"{curve.name}: {int(finite.sum())} checkpoints have finite losses: wanted 2 at least"
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
    rules = outcomes(step[finite], fp32[finite], quantized[finite], watch, ours)
    best = int(step[finite][np.argmin(quantized[finite])])
    return Replay(variant, best, tuple(verdicts), tuple(rules))


def _outlook(step: Any, rates: Any) -> RateOutlook:
    last = max(int(step[-1]), 1)
    if rates is None or not np.isfinite(rates).any():
        return RateOutlook(last)
    known = np.isfinite(rates)
    return RateOutlook(last, planned_rate=lambda at: float(np.interp(at, step[known], rates[known])))
