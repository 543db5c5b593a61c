"""The swap: late rounding errors on early weights and the reverse, sizes matched (``--swap``).

With D(w, e) the damage of the errors of checkpoint e on the weights of w, each group of them as large as w's own, A the
early and Z the late checkpoint, D(A, A) and D(Z, Z) are the damages as measured, and

    log D(Z, Z) - log D(A, A) = weights + pattern
    weights = (log D(Z, A) - log D(A, A) + log D(Z, Z) - log D(A, Z)) / 2
    pattern = (log D(A, Z) - log D(A, A) + log D(Z, Z) - log D(Z, A)) / 2

exactly: each part is the mean of its effect before and after the other. The sizes of the errors belong to the weights.
The growth comes with one of them if the 95 % interval of its share lies above one half, else the swap cannot tell.

Intervals are percentiles of a bootstrap over blocks of neighbouring batches of text, the same for all four damages,
spread as Student's t asks of so few blocks.

Legend of shapes: B = batches, R = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.statistics.bootstrap import batch_weights, block_length
from pipeline.analysis.statistics.curves import FP32, FloatArray
from pipeline.analysis.statistics.intervals import Bounded, mean_se, percentiles, stretched
from pipeline.runs.shard import Shard
from pipeline.runs.swap_column import SWAPS
from pipeline.spec import column_of, variant_label

REPLICATES = 2000

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Damage:
    """A damage in nats per token, with its standard error over batches."""

    nats: float
    se: float


@dataclass(frozen=True)
class Swap:
    """The four damages of one variant, and what its growth comes with."""

    variant: str
    """Column prefix."""
    early: int
    late: int
    early_damage: Damage
    """Damage by the early checkpoint's own errors."""
    late_damage: Damage
    late_error_on_early: Damage
    """Errors of the late checkpoint on the early weights, as large as theirs."""
    early_error_on_late: Damage
    growth: Bounded | None
    """Late damage over early damage; None where a damage is not clearly above 0."""
    weights_share: Bounded | None
    """Share of the growth's logarithm that comes with the weights; the rest is the errors' pattern. None where it did
    not clearly grow."""
    sentence: str


def swaps_of(shards: Sequence[Shard], steps: Sequence[int], *, seed: int = 0) -> tuple[Swap, ...]:
    """The swap between the two ``steps`` of every variant that has it. Errors of other weights than those of the shard
    of their step are left out.
    """
    by_step = {
        shard.table["step"][0].as_py(): shard.rows("weights_sha256", "batch_nll_nats", SWAPS)
        for shard in shards
        if SWAPS in shard.table.column_names
    }
    if len(steps) != 2 or not all(by_step.get(step) for step in steps):
        return ()
    early, late = sorted(steps)
    first, last = by_step[early], by_step[late]
    found = []
    for variant in first:
        if variant == FP32 or variant not in last:
            continue
        late_on_early = _foreign(first[variant], late, last[FP32]["weights_sha256"])
        early_on_late = _foreign(last[variant], early, first[FP32]["weights_sha256"])
        if late_on_early is not None and early_on_late is not None:
            base = [np.array(rows[FP32]["batch_nll_nats"]) for rows in (first, last)]
            own = [np.array(rows[variant]["batch_nll_nats"]) for rows in (first, last)]
            damages = [own[0] - base[0], late_on_early - base[0], early_on_late - base[1], own[1] - base[1]]
            found.append(swap(variant, (early, late), np.stack(damages), seed=seed))
    return tuple(found)


def swap(variant: str, steps: tuple[int, int], damage_4B: FloatArray, *, seed: int = 0) -> Swap:
    """The swap of the variant of this name. ``damage_4B``: D(A, A), D(A, Z), D(Z, A), D(Z, Z) of each batch, nats."""
    count = damage_4B.shape[1]
    drawn = batch_weights(np.random.default_rng(seed), count, REPLICATES)
    logs_R4 = _logs((damage_4B @ stretched(drawn, count // block_length(count))).T)
    growth_R, weights_R = logs_R4[:, 3] - logs_R4[:, 0], _weights(logs_R4)
    growth = share = None
    if np.isfinite(logs_R4).all() and count > 1:
        growth = _bounded(np.exp(growth_R))
        if growth.lower > 1:
            share = _bounded(weights_R / growth_R)
    own, late_on_early, early_on_late, last = (
        Damage(float(each.mean()), mean_se(each)) for each in damage_4B
    )
    sentence = _sentence(variant, steps, growth, share)
    return Swap(column_of(variant), *steps, own, last, late_on_early, early_on_late, growth, share, sentence)


def _bounded(values_R: FloatArray) -> Bounded:
    """The first of ``values_R``, as measured, with percentiles of the others."""
    return Bounded(float(values_R[0]), *percentiles(values_R[1:]))


def _weights(logs_R4: FloatArray) -> FloatArray:
    found: FloatArray = (logs_R4[:, 2] - logs_R4[:, 0] + logs_R4[:, 3] - logs_R4[:, 1]) / 2
    return found


def _logs(damages: FloatArray) -> FloatArray:
    return np.log(np.where(damages > 0, damages, np.nan))


def _sentence(variant: str, steps: tuple[int, int], growth: Bounded | None, share: Bounded | None) -> str:
    name = variant_label(variant)
    between = f"between steps {steps[0]:,} and {steps[1]:,}"
    if growth is None:
        return (
            f"Swapping the rounding errors {between} says nothing of {name}: a damage is not clearly above 0."
        )
    grown = f"{growth.estimate:.2f} times [{growth.lower:.2f}, {growth.upper:.2f}]"
    if share is None:
        return f"{name} damage did not clearly grow {between} ({grown}), so a swap has nothing to explain."
    shown = "{:.0f} % [{:.0f}, {:.0f}]".format(
        *(100 * each for each in (share.estimate, share.lower, share.upper))
    )
    cause = "the swap cannot tell whether with the weights or with the pattern of the errors"
    if share.lower > 0.5:
        cause = "with the weights, whichever checkpoint's errors they get"
    elif share.upper < 0.5:
        cause = "with the pattern of the errors, whichever checkpoint's weights they meet"
    return f"{name} damage grew {grown} {between}: {cause} (share of the weights {shown})."


def _foreign(row: Row, step: int, sha256: str) -> FloatArray | None:
    """Losses (B,) of ``row`` under the errors of ``step``, whose weights are ``sha256``."""
    for entry in row[SWAPS] or ():
        if entry["error_step"] == step and entry["error_sha256"] == sha256:
            return np.array(entry["batch_nll_nats"], dtype=np.float64)
    return None
