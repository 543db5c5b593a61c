"""The options of choosing a checkpoint to ship."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.options import option


@dataclass(frozen=True)
class DecisionOptions:
    """Another tolerance or level; None = the one that the tables were made with, else the stated default."""

    tolerance_nats: float | None = option(
        None, name="--tolerance", metavar="NATS", least=0,
        help="Loss that a checkpoint may cost and still be good enough to ship. Default: 0.01, 1 % of perplexity.",
    )  # fmt: skip
    level: float | None = option(
        None, metavar="SHARE", least=0.5, below=1,
        help="Confidence of the decision's sets and bounds. Default: 0.95.",
    )  # fmt: skip
