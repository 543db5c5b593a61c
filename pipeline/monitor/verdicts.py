"""Input and output of the monitor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LIVE = "live"
"""Name of the trained weights, beside averages of them."""


@dataclass(frozen=True)
class Observed:
    """The losses of one checkpoint."""

    step: int
    """Training steps done."""
    nll_nats: dict[str, float]
    """Column prefix of each variant, ``fp32`` among them -> mean loss of the live weights, nats per token. NaN = not
    finite."""
    learning_rate: float | None = None
    """Learning rate at this step; None = not given."""
    averages: dict[str, float] = field(default_factory=dict)
    """Name of an average of the weights -> its loss under the variant that decides, nats per token."""

    def gaps(self) -> dict[str, float]:
        """Relative increase of perplexity of each quantized variant (0.11 = 11 %); infinite where it overflows."""
        fp32 = self.nll_nats["fp32"]
        return {name: _gap(loss, fp32) for name, loss in self.nll_nats.items() if name != "fp32"}

    def metrics(self, prefix: str) -> dict[str, float]:
        """Losses and gaps as the metrics of a trainer, ``<prefix>_<variant>_loss`` and ``..._gap``."""
        losses = {f"{prefix}_{name}_loss": loss for name, loss in self.nll_nats.items()}
        return losses | {f"{prefix}_{name}_gap": gap for name, gap in self.gaps().items()}


@dataclass(frozen=True)
class Choice:
    """The weights to ship."""

    step: int
    weights: str
    """``live``, or the name of an average."""
    nll_nats: float
    """Loss under the variant that decides, nats per token."""


@dataclass(frozen=True)
class StopAdvice:
    """Advice to stop training; false in case of doubt."""

    stop: bool
    reason: str
    """Reason in one sentence."""

    def __bool__(self) -> bool:
        return self.stop


@dataclass(frozen=True)
class Verdict:
    """The verdict after one observation."""

    best_step: int | None
    """Step of the live weights with the lowest quantized loss so far; None while no loss was finite."""
    worse_since: int | None
    """Step since which the quantized loss is worse than its best; None without an alarm."""
    alarm: bool
    """Whether the quantized loss became worse than its best by more than the margin. A raised alarm stays."""
    ship: Choice | None
    """The weights with the lowest quantized loss so far, averages included."""
    stop_advice: StopAdvice
    numbers: Mapping[str, float]
    """``fp32_nll_nats``, ``<variant>_nll_nats``, ``<variant>_gap``, ``<average>_<variant>_nll_nats``; ``evidence`` for
    a worsening and ``evidence_limit``, which raises the alarm; ``above_best_nats``: loss minus the lowest so far."""
    notes: tuple[str, ...] = ()
    """Further notes, one sentence each."""


def finite_or_nan(loss: float | None) -> float:
    """``loss`` if it is finite, else NaN."""
    return loss if loss is not None and math.isfinite(loss) else math.nan


def _gap(loss: float, fp32_loss: float) -> float:
    try:
        return math.expm1(loss - fp32_loss)
    except OverflowError:
        return math.inf
