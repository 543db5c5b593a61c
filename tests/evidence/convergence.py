"""What the runs to convergence and on decide, by outputs/reference/convergence/RULE.md.

The unit is a training. g = log growth of the damage after convergence at a constant rate, e = log damage at the end of
the decay over that at the end of the constant run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.trajectory.findings import PhaseReport
from pipeline.analysis.trajectory.phase_detection import detect_phases
from tests.evidence.losses import FP32, GPTQ, INT4, Losses, read_losses
from tests.evidence.seeds import t_interval, times

FORK = 32_000
END = (38_000, 40_000)
EARLY = 4_000
"""Updates after the convergence step that are the early window."""
LATEST = 28_000
"""Last step at which the early window may begin."""
MIN_SEEDS = 3
MATTERS = math.log(1.25)
"""Smallest growth that matters."""


def convergence_of(losses: Losses, last: int) -> PhaseReport:
    """Convergence by the rule of `reduce`, from the checkpoints up to ``last`` alone."""
    return detect_phases(losses.curve(last), n_null=1)


def numbers_of(constant: Losses, wsd: Losses) -> dict[str, Any]:
    """What one seed shows: convergence before the fork, windows in nats, g and e of both variants."""
    found = convergence_of(constant, FORK)
    fp32 = constant.mean(FP32)
    numbers: dict[str, Any] = {
        "convergence_step": found.convergence_step,
        "convergence_ci": None if found.convergence_ci is None else list(found.convergence_ci),
        "convergence_share": found.convergence_share,
        "fp32_nats": {
            "fork": float(fp32[(constant.step > FORK - 2000) & (constant.step <= FORK)].mean()),
            "constant": float(fp32[constant.step >= END[0]].mean()),
            "wsd": float(wsd.mean(FP32)[wsd.step >= END[0]].mean()),
        },
    }
    begins = None if found.convergence_step is None else min(found.convergence_step, LATEST)
    for name, variant in (("int4", INT4), ("gptq", GPTQ)):
        ends = {
            "constant": constant.damage(variant, *END),
            "wsd": wsd.damage(variant, *END),
        }
        numbers[name] = {**ends, "e": math.log(ends["wsd"] / ends["constant"])}
        if begins is not None:
            early = constant.damage(variant, begins, begins + EARLY)
            numbers[name] |= {"early": early, "g": math.log(ends["constant"] / early)}
    return numbers


def decide(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict and the intervals that it rests on; ``seeds``: :func:`numbers_of` by seed."""
    converged = [name for name, numbers in seeds.items() if numbers["convergence_step"] is not None]
    readings = {name: _reading([seeds[seed][name] for seed in converged]) for name in ("int4", "gptq")}
    return {
        "seeds": list(seeds),
        "converged": converged,
        "seeds_wanted": MIN_SEEDS,
        "verdict": readings["int4"]["verdict"],
        "readings": readings,
        "by_seed": {name: dict(numbers) for name, numbers in seeds.items()},
    }


def _reading(numbers: list[Mapping[str, float]]) -> dict[str, Any]:
    if len(numbers) < MIN_SEEDS:
        return {"verdict": "not tested"}
    growth, effect = (t_interval(np.array([each[name] for each in numbers])) for name in ("g", "e"))
    verdict = "cannot tell"
    if effect["lower"] > 0 and growth["upper"] < MATTERS:
        verdict = "it follows the decay"
    elif growth["lower"] > MATTERS and effect["lower"] <= 0 <= effect["upper"]:
        verdict = "it follows convergence"
    elif growth["lower"] > 0 and effect["lower"] > 0:
        verdict = "both"
    return {
        "verdict": verdict,
        "growth_at_constant_rate": times(growth),
        "decay_over_constant": times(effect),
    }


def convergence(folder: Path) -> dict[str, Any]:
    """The decision on the seeds whose two suites ``folder`` holds whole."""
    seeds = {}
    for run in sorted(folder.glob("wsd-seed*/run.json")):
        seed = run.parent.name.removeprefix("wsd-")
        if (folder / f"constant-{seed}" / "run.json").is_file():
            seeds[seed] = numbers_of(read_losses(folder / f"constant-{seed}"), read_losses(run.parent))
    return decide(seeds)
