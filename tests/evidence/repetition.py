"""What text seen once and six times decides, by outputs/reference/repetition/RULE.md. The unit is a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Windows at the end of the suites of one seed that ``folder`` holds, nats."""
    found: dict[str, dict[str, dict[str, float]]] = {arm: {} for arm in ARMS}
    for arm in ARMS:
        for schedule in SCHEDULES:
            suite = folder / f"{arm}-{schedule}-{seed}"
            if not (suite / "run.json").is_file():
                continue
            losses = read_losses(suite)
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
    """The three verdicts and their intervals; ``seeds``: :func:`numbers_of` by seed.

    A contrast counts the seeds that have its suites; with fewer than three it has no interval and no verdict.
    """
    readings = {name: _reading(seeds, name) for name in ("int4", "gptq")}
    return {
        "seeds": list(seeds),
        "seeds_wanted": MIN_SEEDS,
        "verdicts": readings["int4"]["verdicts"],
        "readings": readings,
        "by_seed": {name: {arm: dict(found) for arm, found in seed.items()} for name, seed in seeds.items()},
    }


def _reading(seeds: Mapping[str, Seed], variant: str) -> dict[str, Any]:
    logs: dict[str, dict[str, float]] = {"level": {}, "once": {}, "repeated": {}, "difference": {}}
    for name, seed in seeds.items():
        ends = {
            (arm, schedule): math.log(found[variant]) for arm in ARMS for schedule, found in seed[arm].items()
        }
        for contrast, (more, less) in {
            "level": (("repeated", "wsd"), ("once", "wsd")),
            "once": (("once", "wsd"), ("once", "constant")),
            "repeated": (("repeated", "wsd"), ("repeated", "constant")),
        }.items():
            if {more, less} <= ends.keys():
                logs[contrast][name] = ends[more] - ends[less]
        if name in logs["once"] and name in logs["repeated"]:
            logs["difference"][name] = logs["repeated"][name] - logs["once"][name]
    contrasts = {name: _contrast(by_seed) for name, by_seed in logs.items()}
    level, once, difference = (contrasts[name].get("log") for name in ("level", "once", "difference"))
    return {
        "verdicts": {
            "level": _level(level) if level else NOT_JUDGED,
            "decay": _decay(once) if once else NOT_JUDGED,
            "difference": _difference(difference) if difference else NOT_JUDGED,
        },
        "contrasts": contrasts,
    }


def _contrast(by_seed: Mapping[str, float]) -> dict[str, Any]:
    """Ratios by seed, and their interval where there are seeds enough."""
    found: dict[str, Any] = {
        "seeds": len(by_seed),
        "by_seed": {name: math.exp(value) for name, value in by_seed.items()},
    }
    if len(by_seed) >= MIN_SEEDS:
        found["log"] = t_interval(list(by_seed.values()))
        found["times"] = times(found["log"])
    return found


def _decay(once: Mapping[str, float]) -> str:
    return "raises the damage without repetition" if once["lower"] > 0 else "cannot tell"


def _difference(found: Mapping[str, float]) -> str:
    if found["lower"] <= 0 <= found["upper"]:
        return "cannot tell"
    return "repetition changes the effect of the decay"


def _level(level: Mapping[str, float]) -> str:
    if level["lower"] > 0 or level["upper"] < 0:
        return "raises the damage" if level["lower"] > 0 else "lowers the damage"
    small = SMALL[0] < level["lower"] and level["upper"] < SMALL[1]
    return "makes no difference that matters" if small else "cannot tell"


def repetition(folder: Path) -> dict[str, Any]:
    """The decision on the suites that ``folder`` holds."""
    names = sorted({run.parent.name.rsplit("-", 1)[1] for run in folder.glob("*-seed*/run.json")})
    return decide({seed: numbers_of(folder, seed) for seed in names})
