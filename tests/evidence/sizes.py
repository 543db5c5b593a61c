"""What the suites of four sizes decide, by outputs/reference/sizes/RULE.md.

E = log damage at the end of `wsd` over that of `constant` in the same training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pipeline.analysis.statistics.intervals import percentiles, student_half_width
from pipeline.analysis.trajectory.mechanism.explain import read_controls
from pipeline.runs.folder import RunFolder
from tests.evidence.losses import GPTQ, INT4, Losses, read_losses
from tests.evidence.seeds import NOT_JUDGED, times

PARAMETERS = {
    "100k": 12 * 2 * 64**2,
    "1m": 12 * 4 * 128**2,
    "3m": 12 * 4 * 256**2,
    "25m": 12 * 8 * 512**2,
}
"""Weights beside the embeddings, by recipe: 12 x layers x width^2."""
END = (6_900, 7_150)
DRAWS = 4_000
MIN_SIZES, MIN_TRAININGS = 3, 6
READINGS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "int4": lambda each: each["int4"]["estimate"],
    "gptq": lambda each: each["gptq"]["estimate"],
    "noise": lambda each: each["noise_log"],
}
"""Effect of the decay in logarithms, of a training; the first decides."""
DIRECTIONS = {1: "raises", -1: "lowers", 0: "cannot tell"}


def effect(wsd: Losses, constant: Losses, variant: str, rng: np.random.Generator) -> dict[str, float]:
    """E with its interval over text and checkpoints, in logarithms.

    Every draw resamples the batches, the same for both suites, and the checkpoints of each window.
    """
    late, flat = (each.damage_batches(variant, *END) for each in (wsd, constant))
    batches = rng.integers(0, late.shape[1], (DRAWS, late.shape[1]))
    means = []
    for damage in (late, flat):
        chosen = rng.integers(0, len(damage), (DRAWS, len(damage)))
        means.append(np.array([damage[np.ix_(*both)].mean() for both in zip(chosen, batches, strict=True)]))
    lower, upper = percentiles(np.log(means[0] / means[1]))
    return {"estimate": math.log(late.mean() / flat.mean()), "lower": lower, "upper": upper}


def sensitivity_of(folder: Path) -> float | None:
    """Damage of noise of the rounding's size at the end, nats; None without controls."""
    run = RunFolder(folder)
    checkpoints = [each for each in run.read_plan().checkpoints if END[0] <= each.step <= END[1]]
    shards = [run.shards.read(each.key) for each in checkpoints]
    found = read_controls(shards, np.array([each.step for each in checkpoints]))
    return float(found[0].noise.mean()) if found else None


def training(folder: Path, size: str, seed: str, rng: np.random.Generator) -> dict[str, Any]:
    """One training: levels in nats, E of both readings, and E of noise of the same size."""
    suites = {name: folder / f"{size}-{name}-{seed}" for name in ("constant", "wsd")}
    losses = {name: read_losses(path) for name, path in suites.items()}
    gptq = effect(losses["wsd"], losses["constant"], GPTQ, rng)
    noise = {name: sensitivity_of(path) for name, path in suites.items()}
    whole = noise["wsd"] is not None and noise["constant"] is not None
    return {
        "size": size,
        "seed": seed,
        "parameters": PARAMETERS[size],
        "damage_nats": {name: each.damage(INT4, *END) for name, each in losses.items()},
        "gptq_damage_nats": {name: each.damage(GPTQ, *END) for name, each in losses.items()},
        "fp32_nats": {
            name: float(each.mean("fp32")[each.step >= END[0]].mean()) for name, each in losses.items()
        },
        "noise_damage_nats": noise,
        "int4": effect(losses["wsd"], losses["constant"], INT4, rng),
        "gptq": gptq,
        "gptq_times": times(gptq),
        "noise_log": math.log(noise["wsd"] / noise["constant"]) if whole else None,  # type: ignore[operator]
    }


def decide(trainings: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict at each size and on the trend; ``trainings``: :func:`training` of each."""
    by_size = {}
    for size in PARAMETERS:
        there = [each["int4"] for each in trainings if each["size"] == size]
        if there:
            above = all(each["lower"] > 0 for each in there)
            below = all(each["upper"] < 0 for each in there)
            by_size[size] = {
                "trainings": len(there),
                "verdict": DIRECTIONS[above - below],
                "times": [times(each) for each in there],
            }
    trend = {name: _trend(trainings, name) for name in READINGS}
    left_out = [
        {"size": each["size"], "seed": each["seed"]}
        | _trend([other for other in trainings if other is not each], "int4")
        for each in trainings
    ]
    return {
        "verdict": trend["int4"]["verdict"],
        "by_size": by_size,
        "trend": trend,
        "trend_without_one": left_out,
        "trainings": [dict(each) for each in trainings],
    }


def _trend(trainings: list[Mapping[str, Any]], reading: str) -> dict[str, Any]:
    """Slope of E on log10 of the parameters, over the trainings that have the reading."""
    there = [
        (each["size"], each["parameters"], value)
        for each in trainings
        if (value := READINGS[reading](each)) is not None
    ]
    if len({size for size, _, _ in there}) < MIN_SIZES or len(there) < MIN_TRAININGS:
        return {"verdict": NOT_JUDGED}
    x = np.log10([parameters for _, parameters, _ in there])
    fit = stats.linregress(x, [value for _, _, value in there])
    half = student_half_width(float(fit.stderr), len(x) - 2)
    slope = {"estimate": float(fit.slope), "lower": float(fit.slope) - half, "upper": float(fit.slope) + half}
    verdict = "grows" if slope["lower"] > 0 else "shrinks" if slope["upper"] < 0 else "cannot tell"
    return {"verdict": verdict, "slope_log_per_decade": slope, "times_per_decade": times(slope)}


def sizes(folder: Path) -> dict[str, Any]:
    """The decision on the trainings whose two suites ``folder`` holds."""
    rng = np.random.default_rng(0)
    found = []
    for size in PARAMETERS:
        for run in sorted(folder.glob(f"{size}-wsd-seed*/run.json")):
            seed = run.parent.name.rsplit("-", 1)[1]
            if (folder / f"{size}-constant-{seed}" / "run.json").is_file():
                found.append(training(folder, size, seed, rng))
    return decide(found)
