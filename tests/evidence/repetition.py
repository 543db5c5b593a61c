"""What text seen once and six times decides, by outputs/reference/repetition/RULE.md. The unit is a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.evidence.losses import FP32, GPTQ, INT4, read_losses
from tests.evidence.seeds import NOT_JUDGED, t_interval, times

ARMS = ("once", "repeated")
SCHEDULES = ("constant", "wsd")
WINDOW = 0.975
"""Share of the run at which the window at the end begins."""
MIN_SEEDS = 3
SMALL = (math.log(0.8), math.log(1.25))
"""A difference within these does not matter."""

Seed = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Numbers by arm and schedule."""


def numbers_of(folder: Path, seed: str) -> dict[str, dict[str, dict[str, float]]]:
    """Windows at the end of the four suites of one seed, nats."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for arm in ARMS:
        found[arm] = {}
        for schedule in SCHEDULES:
            losses = read_losses(folder / f"{arm}-{schedule}-{seed}")
            last = int(losses.step[-1])
            window = (math.ceil(WINDOW * last - 1e-6), last)
            late = losses.step >= window[0]
            found[arm][schedule] = {
                "int4": losses.damage(INT4, *window),
                "gptq": losses.damage(GPTQ, *window),
                "fp32": float(losses.mean(FP32)[late].mean()),
            }
    return found


def decide(seeds: Mapping[str, Seed]) -> dict[str, Any]:
    """The three verdicts and their intervals; ``seeds``: :func:`numbers_of` by seed."""
    readings = {name: _reading(list(seeds.values()), name) for name in ("int4", "gptq")}
    return {
        "seeds": list(seeds),
        "seeds_wanted": MIN_SEEDS,
        "verdicts": readings["int4"]["verdicts"],
        "readings": readings,
        "by_seed": dict(seeds),
    }


def _reading(seeds: Sequence[Seed], variant: str) -> dict[str, Any]:
    if len(seeds) < MIN_SEEDS:
        return {"verdicts": dict.fromkeys(("level", "decay", "difference"), NOT_JUDGED)}
    logs = {
        (arm, schedule): np.log([seed[arm][schedule][variant] for seed in seeds])
        for arm in ARMS
        for schedule in SCHEDULES
    }
    effects = {arm: logs[arm, "wsd"] - logs[arm, "constant"] for arm in ARMS}
    level = t_interval(logs["repeated", "wsd"] - logs["once", "wsd"])
    difference = t_interval(effects["repeated"] - effects["once"])
    decay = {arm: t_interval(effects[arm]) for arm in ARMS}
    verdicts = {
        "level": _level(level),
        "decay": "raises the damage without repetition" if decay["once"]["lower"] > 0 else "cannot tell",
        "difference": "cannot tell"
        if difference["lower"] <= 0 <= difference["upper"]
        else "repetition changes the effect of the decay",
    }
    return {
        "verdicts": verdicts,
        "level": times(level),
        "decay_over_constant": {arm: times(each) for arm, each in decay.items()},
        "difference": times(difference),
    }


def _level(level: Mapping[str, float]) -> str:
    if level["lower"] > 0 or level["upper"] < 0:
        return "raises the damage" if level["lower"] > 0 else "lowers the damage"
    small = SMALL[0] < level["lower"] and level["upper"] < SMALL[1]
    return "makes no difference that matters" if small else "cannot tell"


def repetition(folder: Path) -> dict[str, Any]:
    """The decision on the seeds whose four suites ``folder`` holds."""
    names = sorted({run.parent.name.rsplit("-", 1)[1] for run in folder.glob("*-seed*/run.json")})
    whole = [
        seed
        for seed in names
        if all(
            (folder / f"{arm}-{schedule}-{seed}" / "run.json").is_file()
            for arm in ARMS
            for schedule in SCHEDULES
        )
    ]
    return decide({seed: numbers_of(folder, seed) for seed in whole})
