"""Input and output of the monitor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LIVE = "live"
"""Name of the trained weights, beside averages of them."""


@dataclass(frozen=True)
class Observed:
    """The losses of one checkpoint."""

    step: int
    """Training steps done."""
    nll_nats: Mapping[str, float]
    """Column prefix of each variant, ``fp32`` among them -> mean loss of the live weights, nats per token. NaN = not
    finite."""
    learning_rate: float | None = None
    """Learning rate at this step; None = not given."""
    averages: Mapping[str, float] = field(default_factory=dict)
    """Name of an average of the weights -> its loss under the variant that decides, nats per token."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; a loss that is not finite becomes null."""
        return {
            "step": self.step,
            "nll_nats": {name: _or_null(loss) for name, loss in self.nll_nats.items()},
            "learning_rate": self.learning_rate,
            "averages": {name: _or_null(loss) for name, loss in self.averages.items()},
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Observed:
        """Read the output of :meth:`to_json`."""
        return cls(
            step=int(plain["step"]),
            nll_nats={name: finite_or_nan(loss) for name, loss in plain["nll_nats"].items()},
            learning_rate=plain["learning_rate"],
            averages={name: finite_or_nan(loss) for name, loss in plain["averages"].items()},
        )


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

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite becomes null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def finite_or_nan(loss: float | None) -> float:
    """``loss`` if it is finite, else NaN."""
    return loss if loss is not None and math.isfinite(loss) else math.nan


def _or_null(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, float):
        return _or_null(value)
    return list(value) if isinstance(value, tuple) else value
