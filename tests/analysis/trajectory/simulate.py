"""Curves with a known answer: a true course, the noise of the measured suites, and what goes wrong in practice.

Noise as in the suites under outputs/reference: the gap scatters from checkpoint to checkpoint by 0.0033 to 0.0047, FP32
by 0.003 to 0.006 nats, neighbours alike by nothing; the difference of one batch's losses by 0.010 to 0.0165 nats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.statistics.curves import Curve
from tests.analysis.trajectory.shapes import (
    ONSETS,
    RATES,
    RESPONSES,
    STEADY,
    Array,
    Rng,
    fp32_loss,
    stagnating_loss,
)

GAP_SD = 0.004
BATCH_SD = 0.012
N_BATCHES = 32
EARLIEST, LATEST = 0.3, 0.86
"""Shares of the run between which an onset at a random step lies."""


@dataclass(frozen=True)
class Truth:
    """One kind of curve; an onset whose place is None lies anywhere from EARLIEST to LATEST."""

    gap: str
    """Key of STEADY, RESPONSES or ONSETS."""
    at: float | None = None
    """Share of the run at which it takes off."""
    rate: str | None = "constant"
    """Key of RATES; None: no learning rate in the table."""
    stops: float | None = None
    """Share of the run at which the FP32 loss stands still; None: never."""
    late_rise: float = 0.0
    """Nats by which it then rises to the end."""
    stagnates: bool = False
    """The FP32 loss is the abstract's (`shapes.stagnating_loss`)."""
    spacing: str = "pythia"
    """`pythia`, `even_N` or `log_N`."""
    gap_sd: float = GAP_SD
    relative_sd: float = 0.0
    """Noise in proportion to the gap, in place of `gap_sd`."""
    fp32_sd: float = 0.004
    memory: float = 0.0
    """Lag-1 autocorrelation of all noise of checkpoints."""
    heavy_tails: bool = False
    batches: bool = True
    outlier: float = 0.0
    """Gap added to one checkpoint."""
    not_finite: int = 0
    """Checkpoints lost at the end."""
    missing: float = 0.0
    """Share of the checkpoints that is not there."""
    duplicates: int = 0
    """Revisions that serve the last weights, and are known to."""

    @property
    def takes_off(self) -> bool:
        """Whether the gap has an onset."""
        return self.gap in ONSETS


@dataclass(frozen=True)
class Labelled:
    """A curve, its true FP32 loss, and the step at which its gap takes off (None: it never does)."""

    curve: Curve
    fp32_nats: Array
    onset: float | None


def pythia_steps(last: int = 143_000) -> NDArray[np.int64]:
    """0, 1, 2, 4, ... 512 and every last/143 up to `last`: 154 checkpoints, fewer where they coincide."""
    powers = [2**k for k in range(10) if 2**k <= last]
    return np.unique(np.concatenate([[0], powers, np.arange(1, 144) * last // 143])).astype(np.int64)


def even_steps(n: int, last: int = 143_000) -> NDArray[np.int64]:
    """n evenly spaced steps from 0."""
    return np.round(np.linspace(0, last, n)).astype(np.int64)


def log_steps(n: int, last: int = 143_000) -> NDArray[np.int64]:
    """n steps in a geometric series from a hundredth of the run."""
    return np.round(np.geomspace(last / 100, last, n)).astype(np.int64)


def ar1(rng: Rng, n: int, phi: float) -> Array:
    """Unit-variance autoregressive noise."""
    e = rng.standard_normal(n)
    for i in range(1, n):
        e[i] = phi * e[i - 1] + np.sqrt(1 - phi**2) * e[i]
    return e


def simulate(truth: Truth, seed: int) -> Labelled:
    """One curve of a kind."""
    rng = np.random.default_rng([seed, 7919])
    kind, _, number = truth.spacing.partition("_")
    step = {"pythia": lambda _: pythia_steps(), "even": even_steps, "log": log_steps}[kind](int(number or 0))
    x = step / step[-1]
    rate = RATES[truth.rate or "constant"](x)
    at = truth.at if truth.at is not None else float(rng.uniform(EARLIEST, LATEST))
    if truth.takes_off:
        gap = ONSETS[truth.gap](x, at)
    else:
        gap = (
            STEADY[truth.gap](x)
            if truth.gap in STEADY
            else RESPONSES[truth.gap](np.where(x < 0.01, 1.0, rate))
        )
    loss = stagnating_loss(x) if truth.stagnates else fp32_loss(x, truth.stops, truth.late_rise)
    case = Labelled(_measured(truth, step, gap, loss, rng), loss, at * step[-1] if truth.takes_off else None)
    if truth.rate is not None:
        case = replace(case, curve=replace(case.curve, learning_rate=6e-4 * rate))
    return _damaged(truth, case, rng)


def _measured(truth: Truth, step: NDArray[np.int64], gap: Array, loss: Array, rng: Rng) -> Curve:
    """The losses of all batches and their means, with noise."""
    n = len(step)
    sd = truth.relative_sd * gap if truth.relative_sd else truth.gap_sd * np.ones(n)
    text = BATCH_SD / np.sqrt(N_BATCHES) if truth.batches else 0.0
    own = np.sqrt(np.maximum(sd**2 - (text * (1 + gap) if truth.relative_sd else text) ** 2, (0.3 * sd) ** 2))
    draw = rng.standard_t(3, n) / np.sqrt(3) if truth.heavy_tails else ar1(rng, n, truth.memory)
    noisy = np.maximum(gap + own * draw, -0.9)
    fp32 = loss + truth.fp32_sd * ar1(rng, n, truth.memory) * (1 + 2 * np.exp(-step / step[-1] / 0.05))
    if not truth.batches:
        return Curve(step, fp32, {"int4": fp32 + np.log1p(noisy)})
    easy = 0.3 * rng.standard_normal(N_BATCHES)
    harm = 1 + 0.1 * rng.standard_normal(N_BATCHES)
    harm += 1 - harm.mean()
    fp32_b = fp32[:, None] + easy - easy.mean()
    between = np.log1p(noisy)[:, None] * harm + BATCH_SD * rng.standard_normal((n, N_BATCHES))
    int4_b = fp32_b + between
    return Curve(
        step,
        fp32_b.mean(axis=1),
        {"int4": int4_b.mean(axis=1)},
        fp32_batch_nll_nats=fp32_b,
        variant_batch_nll_nats={"int4": int4_b},
    )


def _damaged(truth: Truth, case: Labelled, rng: Rng) -> Labelled:
    """Outliers, revisions that serve other weights, lost and absent checkpoints."""
    curve, n = case.curve, len(case.curve.step)
    late = np.flatnonzero(curve.step > 0.02 * curve.step[-1])
    if truth.outlier:
        row = np.zeros(n)
        row[rng.choice(late[2:-2])] = 1.0
        curve = _moved(curve, "int4", row * np.log1p(truth.outlier))
    if truth.duplicates:
        wrong = np.sort(rng.choice(n - 1, truth.duplicates, replace=False))
        source = np.arange(n)
        source[wrong] = n - 1
        duplicate = np.zeros(n, dtype=bool)
        duplicate[[*wrong[1:], n - 1]] = True  # each content counts at the first revision that serves it
        curve = replace(
            _rows(curve, source), step=curve.step, learning_rate=curve.learning_rate, duplicate=duplicate
        )
    if truth.not_finite:
        lost = np.where(np.arange(n) >= n - truth.not_finite, np.nan, 0.0)
        curve = _moved(_moved(curve, "int4", lost), "fp32", lost)
    loss = case.fp32_nats
    if truth.missing:
        keep = np.sort(rng.choice(n, round(n * (1 - truth.missing)), replace=False))
        curve, loss = _rows(curve, keep), loss[keep]
    return Labelled(curve, loss, case.onset)


def _rows(curve: Curve, index: NDArray[np.int64]) -> Curve:
    """The curve at some rows."""
    fp32_b = curve.fp32_batch_nll_nats
    return replace(
        curve,
        step=curve.step[index] if np.all(np.diff(index) > 0) else curve.step,
        fp32_nll_nats=curve.fp32_nll_nats[index],
        variant_nll_nats={name: nll[index] for name, nll in curve.variant_nll_nats.items()},
        learning_rate=None if curve.learning_rate is None else curve.learning_rate[index],
        fp32_batch_nll_nats=None if fp32_b is None else fp32_b[index],
        variant_batch_nll_nats={name: nll[index] for name, nll in curve.variant_batch_nll_nats.items()},
    )


def _moved(curve: Curve, variant: str, by: Array) -> Curve:
    """The curve with a variant's loss moved at each checkpoint, in every batch."""
    if variant == "fp32":
        fp32_b = curve.fp32_batch_nll_nats
        return replace(
            curve,
            fp32_nll_nats=curve.fp32_nll_nats + by,
            fp32_batch_nll_nats=None if fp32_b is None else fp32_b + by[:, None],
        )
    batches = {k: v + by[:, None] for k, v in curve.variant_batch_nll_nats.items()}
    return replace(
        curve,
        variant_nll_nats={k: v + by for k, v in curve.variant_nll_nats.items()},
        variant_batch_nll_nats=batches,
    )
