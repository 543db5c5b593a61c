"""Stopping rules, applied to a whole run in hindsight.

A rule that stops ships the checkpoint with the lowest quantized loss so far; its regret is the cost of stopping.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray, IntArray
from pipeline.analysis.trajectory.convergence import fit_convergence
from pipeline.monitor.judging import WatchSettings

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
    step: IntArray, fp32: FloatArray, quantized: FloatArray, settings: WatchSettings, ours: int | None
) -> list[RuleOutcome]:
    """Every rule on finite losses (n,) in nats; ``ours``: index of the checkpoint where the monitor advised a stop."""
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
        outcome("last checkpoint", None, len(step) - 1),
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
