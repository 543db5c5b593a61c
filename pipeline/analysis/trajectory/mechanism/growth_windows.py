"""Between which windows of a trajectory the damage's growth is split, by a rule that is the same for every run.

The end is the last tenth of the audited steps. The beginning is the plateau, phase 2, where there is one that ends
before that; else the first tenth after warm-up, or, where no learning rate is known, after the first hundredth of the
run. A window with fewer than five checkpoints with finite controls is widened to its nearest five.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import IntArray
from pipeline.analysis.trajectory.audited_window import INITIAL_SHARE
from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.stages import Phase

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
