"""Everything that report.json says of the mechanism, as named results.

The growth of the damage is split between two windows of a trajectory, by a rule that is the same for every run. The end
is the last tenth of the audited steps. The beginning is the plateau, phase 2, where there is one that ends before that;
else the first tenth after warm-up, or, where no learning rate is known, after the first hundredth of the run. A window
with fewer than five checkpoints with finite controls is widened to its nearest five.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray, IntArray
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory.audited_window import INITIAL_SHARE
from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.control_losses import ControlLosses
from pipeline.analysis.trajectory.mechanism.growth_shares import GrowthShares, NoShares, split_growth
from pipeline.analysis.trajectory.mechanism.quiet_gap import QuietGap, quiet_gap
from pipeline.analysis.trajectory.mechanism.trace_check import TraceCheck
from pipeline.analysis.trajectory.schedule_events import WARMUP_END, learning_rate_events
from pipeline.analysis.trajectory.stages import Phase
from pipeline.base.typed_json import UNLESS_NONE

WINDOW_SHARE = 0.1
"""Share of the audited steps in a window."""
WINDOW_CHECKPOINTS = 5
"""Checkpoints that a window holds at least."""
PLATEAU, WARM = "the plateau", "the first tenth after warm-up"


@dataclass(frozen=True)
class GrowthWindows:
    """Two windows that do not overlap."""

    first: Window
    last: Window
    first_is: str
    """Description of the first window."""


def choose_windows(
    step: IntArray, *, phases: tuple[Phase, ...] = (), warm_up_end: float | None = None
) -> GrowthWindows | None:
    """The windows for the steps of checkpoints with finite controls, (n,); None where there are too few of them.

    ``phases``: those of the run, if it has any. ``warm_up_end``: step, None where it is not known.
    """
    if len(step) < 2 * WINDOW_CHECKPOINTS:
        return None
    start, end = int(step[0]), int(step[-1])
    width = WINDOW_SHARE * (end - start)
    late = min(int(np.searchsorted(step, end - width)), len(step) - WINDOW_CHECKPOINTS)
    last = Window(int(step[late]), end)
    for phase in phases:
        inside = step[(step >= phase.first_step) & (step <= phase.last_step)]
        if phase.phase == 2 and len(inside) >= WINDOW_CHECKPOINTS and inside[-1] < last.first:
            return GrowthWindows(Window(int(inside[0]), int(inside[-1])), last, PLATEAU)
    begin = start + INITIAL_SHARE * (end - start) if warm_up_end is None else warm_up_end
    first = min(int(np.searchsorted(step, begin)), late - WINDOW_CHECKPOINTS)
    stop = max(int(np.searchsorted(step, begin + width, side="right")), first + WINDOW_CHECKPOINTS)
    chosen = step[first : min(stop, late)]
    return GrowthWindows(Window(int(chosen[0]), int(chosen[-1])), last, WARM)


@dataclass(frozen=True)
class VariantMechanism:
    """Why the damage of one variant grew."""

    variant: str
    """Column prefix."""
    label: str
    """Label for readers."""
    first_is: str
    """Description of the first window; empty without windows."""
    shares: GrowthShares | None
    not_split: str | None
    """Why there are no shares; None where there are."""
    parabola_share: float | None
    """Median over the last window of what a parabola through half steps says of the damage, over the damage; of all
    checkpoints where there are no windows; None where it was not measured."""
    even: QuietGap | None
    not_finite: tuple[int, ...]
    """Steps whose controls are not finite; they are kept in the table, and in no window."""


@dataclass(frozen=True)
class Mechanism:
    """``mechanism`` of report.json."""

    headline: str
    """Column prefix of the variant that the verdict speaks of."""
    by_variant: dict[str, VariantMechanism]
    sentences: dict[str, str]
    """The cause in one sentence, by variant."""
    trace_checks: tuple[TraceCheck, ...] | None = field(default=None, metadata=UNLESS_NONE)
    """What the trace of the Hessian predicts of noise; None where it was not measured beside it (``--flatness``)."""

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return self.sentences[self.headline]


def explain_variant(
    losses: ControlLosses,
    *,
    label: str,
    phases: Sequence[Phase] = (),
    learning_rate: FloatArray | None = None,
    seed: int = 0,
    n_null: int = N_NULL,
) -> VariantMechanism:
    """The mechanism of one variant. ``learning_rate``: (T,), None where it is not known."""
    usable = losses.usable
    (warm_up,) = (e for e in learning_rate_events(losses.step, learning_rate) if e.name == WARMUP_END)
    windows = choose_windows(losses.step[usable], phases=tuple(phases), warm_up_end=warm_up.step)
    split: GrowthShares | NoShares
    if windows is None:
        split = NoShares(f"{int(usable.sum())} checkpoints have finite controls, at least 10 are needed")
    else:
        split = split_growth(losses, windows.first, windows.last, seed=seed)
    share = losses.parabola_share()
    parabola = None
    if share is not None:
        late = usable & np.isfinite(share)
        if windows is not None:
            late &= losses.step >= windows.last.first
        parabola = float(np.median(share[late])) if late.any() else None
    broken = ~np.isfinite(np.stack(list(losses.factors().values()))).all(axis=0)
    return VariantMechanism(
        variant=losses.variant,
        label=label,
        first_is="" if windows is None else windows.first_is,
        shares=split if isinstance(split, GrowthShares) else None,
        not_split=split.reason if isinstance(split, NoShares) else None,
        parabola_share=parabola,
        even=quiet_gap(losses, learning_rate, seed=seed, n_null=n_null) if usable.sum() >= 3 else None,
        not_finite=tuple(int(step) for step in losses.step[broken]),
    )
