"""Coverage of the decision on simulated curves with a known best checkpoint: ``python -m tests.analysis.decisions``,
and its time on Pythia's number of checkpoints: ``python -m tests.analysis.decisions time``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np

from pipeline.analysis.decision import Decision, decide
from pipeline.analysis.trajectory.shipping import BLOCKS

CHECKPOINTS = 101
SCATTER_NATS = 0.003
"""Between neighbouring checkpoints."""
TEXT_NATS = 0.025
"""Of a batch's loss around a checkpoint's mean, other for every checkpoint."""
UNITS = {"batch": (32, TEXT_NATS), "sequence": (128, 2 * TEXT_NATS)}
"""Their number, and their scatter: a batch has four sequences."""
CORRELATIONS = {"batch": (0.0, 0.3), "sequence": (0.0, 0.3, 0.5)}
"""Of neighbours; sequences of 0.5 make batches of 0.2, as text of the suites does."""
SHAPES = ("flat late", "minimum at 0.8", "falls to the end")


def mean_curve(shape: str, rng: np.random.Generator) -> np.ndarray:
    """True losses over all texts, (CHECKPOINTS,), with the checkpoints' own scatter."""
    x = np.linspace(0, 1, CHECKPOINTS)
    smooth = {
        "flat late": 2.0 + 0.3 * np.clip(0.5 - x, 0, None),
        "minimum at 0.8": 2.0 + np.where(x < 0.8, 0.3 * (0.8 - x), 0.15 * (x - 0.8)),
        "falls to the end": 2.0 + 0.3 * (1 - x),
    }[shape]
    return smooth + rng.normal(0, SCATTER_NATS, CHECKPOINTS)


def measured(
    truth: np.ndarray, rng: np.random.Generator, *, unit: str = "batch", correlation: float = 0.0
) -> np.ndarray:
    """Losses (CHECKPOINTS, units) of texts whose neighbours are correlated."""
    batches, spread = UNITS[unit]
    noise = rng.normal(0, spread, (len(truth), batches))
    for b in range(1, batches):
        noise[:, b] = correlation * noise[:, b - 1] + np.sqrt(1 - correlation**2) * noise[:, b]
    return truth[:, None] + rng.normal(0, 0.3, batches) + noise


def decisions(
    shape: str, correlation: float, curves: int, *, unit: str = "batch", seed: int = 0
) -> Iterator[tuple[np.ndarray, Decision]]:
    """True curves and what is decided of each, with INT4's loss as the only one that matters."""
    for index in range(curves):
        rng = np.random.default_rng([seed, SHAPES.index(shape), round(100 * correlation), index])
        truth = mean_curve(shape, rng)
        losses = measured(truth, rng, unit=unit, correlation=correlation)
        found = decide(
            np.arange(CHECKPOINTS),
            losses,
            losses - 0.1,
            variant="int4",
            unit=unit,
            blocks=BLOCKS[unit],
            seed=index,
        )
        assert isinstance(found, Decision)
        yield truth, found


def rates(shape: str, correlation: float, curves: int, unit: str = "batch") -> dict[str, float]:
    """Coverage of the set and of the regrets, its size, and how good the lowest mean itself is."""
    covered, bounded, size, hit, cost, bound = [], [], [], [], [], []
    for truth, found in decisions(shape, correlation, curves, unit=unit):
        regret = truth - truth.min()
        shown = (found.regret_of_last, found.regret_of_fp32_best, found.regret_of_lowest_gap)
        covered.append(int(np.argmin(truth)) in found.maybe_best)
        bounded.append(
            all(each.lower <= regret[each.step] <= each.upper for each in shown)
            and all(regret[step] <= found.tolerance_nats for step in found.good_enough)
        )
        size.append(len(found.maybe_best))
        hit.append(found.best_step == int(np.argmin(truth)))
        cost.append(regret[found.best_step])
        bound.append(found.regret_of_last.upper)
    return {
        "set covers the best": float(np.mean(covered)),
        "regrets within bounds": float(np.mean(bounded)),
        "size of the set": float(np.median(size)),
        "lowest mean is best": float(np.mean(hit)),
        "regret of the lowest mean": float(np.mean(cost)),
        "upper bound for the last": float(np.median(bound)),
    }


def seconds_of_a_decision(checkpoints: int = 154, sequences: int = 128, variants: int = 3) -> float:
    """Wall time of the decisions under all variants of one run."""
    rng = np.random.default_rng(0)
    losses = 2 + rng.normal(0, 0.3, sequences) + rng.normal(0, 0.05, (variants, checkpoints, sequences))
    start = time.perf_counter()
    for each in losses:
        decide(
            np.arange(checkpoints),
            each,
            each - 0.1,
            variant="int4",
            unit="sequence",
            blocks=BLOCKS["sequence"],
        )
    return time.perf_counter() - start


def main(n_curves: int) -> None:
    """Prints a row per cell."""
    for shape in SHAPES:
        for unit, correlations in CORRELATIONS.items():
            for correlation in correlations:
                start = time.perf_counter()
                numbers = rates(shape, correlation, n_curves, unit)
                shown = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
                took = time.perf_counter() - start
                print(f"{shape}, correlation {correlation}, {unit}: {shown} ({took:.0f} s)")


if __name__ == "__main__":
    if sys.argv[1:] == ["time"]:
        print(f"154 checkpoints x 128 sequences x 3 variants: {seconds_of_a_decision():.1f} s")
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
