"""How often the intervals of `compare` cover the truth.

``python -m tests.analysis.trajectory.growth_rates [TRAJECTORIES]`` measures it.

The gap scatters by 0.004 from checkpoint to checkpoint with a memory of 0, 0.5 or 0.9, and by 15 % over batches of text
with a correlation of 0.3 between neighbours, about as the reference's suites do. Windows and spacing are those of the
reference: 15 and 6 of 143 checkpoints. Growth: one trajectory; ratio: that over a flat one of the same text.
Measured (1,000 a cell, seed 0; a rate near 0.95 has a standard error of 0.007):

| course | memory | growth | ratio | median half width |
|---|---|---|---|---|
| flat | 0 | 0.974 | 0.977 | 0.072 |
| flat | 0.5 | 0.951 | 0.964 | 0.113 |
| flat | 0.9 | 0.945 | 0.967 | 0.209 |
| kink at the decay | 0 | 0.984 | 0.984 | 0.090 |
| kink at the decay | 0.5 | 0.976 | 0.978 | 0.148 |
| kink at the decay | 0.9 | 0.958 | 0.972 | 0.343 |
| exponential | 0 | 0.972 | 0.974 | 0.065 |
| exponential | 0.5 | 0.955 | 0.971 | 0.102 |
| exponential | 0.9 | 0.949 | 0.959 | 0.186 |
| early transient | 0 | 0.972 | 0.976 | 0.077 |
| early transient | 0.5 | 0.968 | 0.968 | 0.120 |
| early transient | 0.9 | 0.952 | 0.963 | 0.234 |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.statistics.noise import ar1_noise
from pipeline.analysis.trajectory.growth import Window, compare_growth

BEFORE, END = Window(20_000, 22_800), Window(27_600, 28_600)
STEP = np.arange(200, 28_601, 200)
SD, TEXT_SD, TEXT_CORRELATION, N_BATCHES = 0.004, 0.15, 0.3, 32
MEMORIES = (0.0, 0.5, 0.9)
COURSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": lambda x: 0.06 + 0 * x,
    "kink at the decay": lambda x: 0.06 + 0.03 * np.clip((x - 0.8) / 0.2, 0, 1),
    "exponential": lambda x: 0.03 * np.exp(1.2 * x),
    "early transient": lambda x: 0.06 * x / (x + 0.05),
}


@dataclass(frozen=True)
class Coverage:
    """Shares of the intervals that hold the truth, and their median half width."""

    course: str
    memory: float
    growth: float
    ratio: float
    half_width: float


def measure(course: str, memory: float, n: int, rng: np.random.Generator) -> Coverage:
    """``n`` pairs of trajectories: one of ``course`` and a flat one."""
    truths = [COURSES[each](STEP / STEP[-1]) for each in ("flat", course)]
    rows = [np.isin(STEP, range(window.first, window.last + 1)) for window in (BEFORE, END)]
    flat, growth = (truth[rows[1]].mean() / truth[rows[0]].mean() for truth in truths)
    covered, widths = np.zeros(2), []
    for _ in range(n):
        text = batches(rng)
        _, found = compare_growth([curve(truth, memory, text, rng) for truth in truths], "int4", BEFORE, END)
        assert found.growth is not None
        assert found.against is not None
        covered += [
            found.growth.lower <= growth <= found.growth.upper,
            found.against.lower <= growth / flat <= found.against.upper,
        ]
        widths.append((found.growth.upper - found.growth.lower) / 2)
    return Coverage(course, memory, *(covered / n), float(np.median(widths)))


def batches(rng: np.random.Generator) -> np.ndarray:
    """The share of the mean damage that each batch has; the expectation is 1."""
    return 1 + TEXT_SD * ar1_noise(rng, N_BATCHES, 1, TEXT_CORRELATION)[:, 0]


def curve(truth: np.ndarray, memory: float, text: np.ndarray, rng: np.random.Generator) -> Curve:
    """A trajectory whose expected gap is ``truth``, measured on ``text``."""
    gap = truth + SD * ar1_noise(rng, len(STEP), 1, memory)[:, 0]
    fp32 = 2.0 + np.zeros((len(STEP), N_BATCHES))
    variant = fp32 + np.log1p(gap)[:, None] * text * (1 + 0.05 * rng.standard_normal((len(STEP), N_BATCHES)))
    return Curve(
        STEP, fp32.mean(axis=1), {"int4": variant.mean(axis=1)}, fp32_batch_nll_nats=fp32,
        variant_batch_nll_nats={"int4": variant},
    )  # fmt: skip


def every(n: int) -> Iterator[Coverage]:
    """All cells."""
    rng = np.random.default_rng(0)
    for course in COURSES:
        for memory in MEMORIES:
            yield measure(course, memory, n, rng)


if __name__ == "__main__":
    print("| course | memory | growth | ratio | median half width |\n|---|---|---|---|---|")
    for cell in every(int(sys.argv[1]) if len(sys.argv) > 1 else 400):
        row = f"| {cell.course} | {cell.memory:g} | {cell.growth:.3f} | {cell.ratio:.3f} | {cell.half_width:.3f} |"
        print(row, flush=True)
