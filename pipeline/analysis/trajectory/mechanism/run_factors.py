"""The factors of several runs between the same two windows, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.growth_shares import GrowthShares, NoShares, split_growth


@dataclass(frozen=True)
class RunFactors:
    """The growth of one variant's damage in one run, factor by factor."""

    run: str
    variant: str
    """Column prefix."""
    shares: GrowthShares | None
    not_split: str | None
    """Why there are no shares; None where there are."""


def factors_of_runs(
    measured: Mapping[str, Sequence[ControlLosses]],
    variants: Iterable[str],
    before: Window,
    end: Window,
    *,
    seed: int = 0,
) -> list[RunFactors]:
    """The factors of every run and variant that has controls, variant by variant.

    ``measured``: by run. ``seed``: of the bootstrap, the same for all, so that equal evaluation text is drawn alike.
    """
    found = []
    for variant in variants:
        for run, every in measured.items():
            for losses in every:
                if losses.variant == variant:
                    split = split_growth(losses, before, end, seed=seed)
                    shares = split if isinstance(split, GrowthShares) else None
                    reason = split.reason if isinstance(split, NoShares) else None
                    found.append(RunFactors(run, variant, shares, reason))
    return found
