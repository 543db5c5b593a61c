"""False alarms, delay and cost of the rule for use during training.

``python -m tests.analysis.trajectory.alarms [runs]`` measures them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from pipeline.analysis.statistics.noise import ar1_noise
from pipeline.analysis.trajectory.worsening import Rule, Worsening

STEPS = np.unique(np.concatenate([[0], 2 ** np.arange(10), np.arange(1000, 144_000, 1000)]))
"""Pythia's 154 checkpoints."""
SCATTER_NATS = 0.004
TURN = 77_000

Truth = Callable[[np.ndarray], np.ndarray]


def settles(at: float) -> Truth:
    """Losses that fall as a power of the step and are flat from step ``at``."""
    return lambda step: 2.0 + 8 * (np.minimum(step, at) + 50.0) ** -0.3


def rises(by: float, shape: float = 1.0) -> Truth:
    """Flat from ``TURN``, then rising by ``by`` nats to the end, as a power of the time since."""
    since = lambda step: np.clip((step - TURN) / (STEPS[-1] - TURN), 0, None)  # noqa: E731
    return lambda step: settles(TURN)(step) + by * since(step) ** shape


def explodes(step: np.ndarray) -> np.ndarray:
    """The paper's shape: a gap of 11 % until ``TURN``, then exponentially to 517 %."""
    share = np.clip((step - TURN) / (STEPS[-1] - TURN), 0, None)
    return settles(TURN)(step) + np.log1p(0.11 * (5.17 / 0.11) ** share)


HARMLESS: dict[str, tuple[Truth, dict[str, float]]] = {
    "flat from 20k": (settles(20_000), {}),
    "flat, memory 0.5": (settles(20_000), {"memory": 0.5}),
    "flat, memory 0.9": (settles(20_000), {"memory": 0.9}),
    "flat, heavy tails": (settles(20_000), {"tails": 3}),
    "flat, one outlier of 50 points": (settles(20_000), {"outlier": 0.405}),
    "INT4 improves under a growing gap": (settles(143_000), {}),
}
WORSE: dict[str, Truth] = {
    "explosion at 77k": explodes,
    "rises 0.2 from 77k": rises(0.2),
    "rises 0.3 from 77k": rises(0.3),
    "rises 0.05 from 77k": rises(0.05),
}


def losses(
    truth: Truth, rng: np.random.Generator, *, memory: float = 0, tails: float = 0, outlier: float = 0
) -> np.ndarray:
    """Mean losses at ``STEPS``; FP32 and the gap scatter independently."""
    noise = ar1_noise(rng, len(STEPS), 2, memory)
    if tails:
        noise = rng.standard_t(tails, noise.shape) / np.sqrt(tails / (tails - 2))
    values = truth(STEPS.astype(float)) + SCATTER_NATS * noise.sum(axis=1)
    if outlier:
        values[rng.integers(60, 150)] += outlier
    return values


def alarm_index(values: np.ndarray, margin: float, rule: Rule) -> int | None:
    """Index of the checkpoint that raises the alarm."""
    watched = Worsening(len(values), margin_nats=margin, rule=rule)
    for index, value in enumerate(values):
        if watched.observe(int(STEPS[index]), float(value)) is not None:
            return index
    return None


def found(truth: Truth, margin: float, rule: Rule, runs: int, **noise: float) -> list[int | None]:
    """Where each of ``runs`` simulated runs raises its alarm."""
    return [
        alarm_index(losses(truth, np.random.default_rng([7, run]), **noise), margin, rule)
        for run in range(runs)
    ]


def main(runs: int) -> None:
    """Prints a row per truth."""
    for rule in ("e-detector", "cusum"):
        for margin in (0.005, 0.01):
            for name, (truth, noise) in HARMLESS.items():
                share = np.mean([at is not None for at in found(truth, margin, rule, runs, **noise)])
                print(f"{rule}, margin {margin}, {name}: false alarms {share:.3f}")
            for name, truth in WORSE.items():
                at = found(truth, margin, rule, runs)
                turn = int(np.searchsorted(STEPS, TURN))
                late = [index - turn for index in at if index is not None and index >= turn]
                cost = [
                    float(truth(STEPS[[turn + d]].astype(float))[0] - truth(STEPS[[turn]].astype(float))[0])
                    for d in late
                ]
                early = np.mean([index is not None and index < turn for index in at])
                print(
                    f"{rule}, margin {margin}, {name}: found {len(late) / runs:.2f}, too early {early:.2f}, delay "
                    f"{np.median(late):.0f} ({np.quantile(late, 0.9):.0f}) checkpoints, cost {np.median(cost):.3f} nats"
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
