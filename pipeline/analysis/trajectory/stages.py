"""The three phases of a trajectory: rapid learning, stagnation with a bounded gap, damage that takes off.

Phase 3 runs from the onset on; without an onset there is none. Phase 2 is what "plateau" means in arXiv 2604.15167, a
long stretch before the onset in which full precision hardly improves while the gap stays bounded: from the first
checkpoint after which the smooth FP32 loss never falls by more than STAGNATION_NATS in a tenth of the run, until the
onset. It does not wait for convergence, which the paper puts at its end. A stretch shorter than MIN_SHARE of the run is
none: then phase 1 runs until the onset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray, IntArray

STAGNATION_NATS = 0.01
"""Fall of the FP32 loss in a tenth of the run that no longer counts as learning: one per cent of perplexity."""
WINDOW_SHARE = 0.1
MIN_SHARE = 0.05
"""The second phase lasts at least this share of the run."""
ROUNDING = 1.001
"""Factor on shares of the run, so that a checkpoint exactly at one counts as within it."""


@dataclass(frozen=True)
class Phase:
    """Checkpoints `first_step` to `last_step`, both included, belong to phase 1, 2 or 3."""

    phase: int
    first_step: int
    last_step: int


def phase_of(phases: Sequence[Phase], step: IntArray) -> list[int | None]:
    """The phase of each step (n,); None outside all of them."""
    return [next((p.phase for p in phases if p.first_step <= s <= p.last_step), None) for s in step]


def stagnation_start(x: FloatArray, smooth: FloatArray, onset: float | None) -> float | None:
    """Position at which phase 2 begins, None where there is none; x: (n,) in [0, 1], smooth: (n,) nats."""
    end = float(x[-1]) if onset is None else onset
    before = x <= end
    x, smooth = x[before], smooth[before]
    if not len(x):
        return None
    last = np.searchsorted(x, x + WINDOW_SHARE * ROUNDING)
    fall = np.array([smooth[i] - smooth[i:j].min() for i, j in enumerate(last)])
    learning = np.flatnonzero(fall > STAGNATION_NATS)
    first = int(learning[-1]) + 1 if len(learning) else 0
    if first >= len(x) or end - x[first] < MIN_SHARE:
        return None
    return float(x[first])


def label_phases(step: IntArray, second: int | None, third: int | None) -> tuple[Phase, ...]:
    """The phases of all usable checkpoints (n,), from the steps at which the second and the third begin."""
    if not len(step):
        return ()
    end = np.iinfo(np.int64).max
    at = end if third is None else third
    label = np.where(step >= at, 3, np.where(step >= (at if second is None else second), 2, 1))
    return tuple(
        Phase(k, int(step[label == k][0]), int(step[label == k][-1])) for k in (1, 2, 3) if np.any(label == k)
    )
