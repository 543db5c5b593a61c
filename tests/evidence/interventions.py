"""What the trained interventions decide, by the rules of outputs/reference/interventions and of its confirmation.

The unit is a training. c, d, h, s are the log damages at the end of ``constant``, ``decay``, ``decay-held`` and
``constant-shrunk``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pipeline.analysis.trajectory.mechanism.explain import read_controls
from pipeline.runs.folder import RunFolder
from tests.evidence.losses import GPTQ, INT4
from tests.evidence.seeds import LEVEL, NOT_JUDGED, t_interval, times

ARMS = ("trunk", "constant", "decay", "decay-held", "constant-shrunk", "average", "sam", "muon")
"""Stage 1, 2, ... of a suite."""
TRUNK = "stage1"
"""Not in any comparison: every arm has the same one."""
SQUARE = ARMS[1:5]
FLATTENING = ("average", "sam", "muon")
COLUMNS = ("damage_nats", "gptq_damage_nats", "error_size", "kappa_nats", "sensitivity_nats", "alignment")
MIN_SEEDS, MIN_CONFIRMING = 3, 8
"""Fewest seeds that are judged, in the first experiment and in its confirmation."""
WHOLE = 6
"""Checkpoints in the window of an arm."""
TRIED = 0.05
"""Smallest fall of the norm that counts as one."""

Arms = Mapping[str, Mapping[str, float]]
"""Numbers of a window by name, by arm."""


def windows(folder: RunFolder) -> dict[str, dict[str, float]]:
    """The window of every arm of one seed: means over its checkpoints, in nats where not unitless.

    Sensitivity and alignment are there where every checkpoint of the arm has controls.
    """
    checkpoints = [each for each in folder.read_plan().checkpoints if each.stage != TRUNK]
    stage = np.array([int(each.stage.removeprefix("stage")) for each in checkpoints])
    shards = [folder.shards.read(each.key) for each in checkpoints]
    rows = [{row["variant"]: row for row in shard.table.to_pylist()} for shard in shards]
    noise = np.full(len(rows), np.nan)
    for losses in read_controls(shards, np.array([each.step for each in checkpoints])):
        noise = losses.noise
    found = {}
    for number, arm in enumerate(ARMS, start=1):
        there = np.flatnonzero(stage == number)
        if len(there) == WHOLE:
            found[arm] = _window([rows[index] for index in there], float(noise[there].mean()))
    return found


def _window(rows: Sequence[Mapping[str, Any]], noise: float) -> dict[str, float]:
    loss = {name: float(np.mean([row[name]["nll_nats"] for row in rows])) for name in ("fp32", INT4, GPTQ)}
    squares = [
        [each["n"] * (each["std"] ** 2 + each["mean"] ** 2) for each in row[INT4]["tensors"]] for row in rows
    ]
    errors = [[each["relative_error"] ** 2 for each in row[INT4]["tensors"]] for row in rows]
    size = float(
        np.mean([np.average(error, weights=square) for error, square in zip(errors, squares, strict=True)])
    )
    damage = loss[INT4] - loss["fp32"]
    found = {
        "checkpoints": len(rows),
        "damage_nats": damage,
        "gptq_damage_nats": loss[GPTQ] - loss["fp32"],
        "error_size": size,
        "kappa_nats": damage / size,
        "norm": float(np.mean([math.sqrt(sum(square)) for square in squares])),
        "fp32_nll_nats": loss["fp32"],
        "int4_nll_nats": loss[INT4],
    }
    if math.isfinite(noise):
        found |= {"sensitivity_nats": noise / size, "alignment": damage / noise}
    return found


def decide(seeds: Mapping[str, Arms], wanted: int = MIN_SEEDS) -> dict[str, Any]:
    """The verdicts and every contrast that they rest on; ``seeds``: :func:`windows` by seed.

    Fewer seeds than ``wanted`` are told one by one and not judged.
    """
    whole = {name: arms for name, arms in seeds.items() if set(SQUARE) <= arms.keys()}
    by_seed = {name: _ratios(arms) for name, arms in whole.items()}
    parts = {column: _two_by_two(list(whole.values()), column, wanted) for column in COLUMNS}
    norms = [math.log(arms["decay"]["norm"] / arms["constant"]["norm"]) for arms in whole.values()]
    cause = parts["damage_nats"]["cause"]
    if cause != NOT_JUDGED and math.exp(float(np.mean(norms))) > 1 - TRIED:
        cause = "not tested"
    return {
        "seeds": list(whole),
        "seeds_wanted": wanted,
        "level": LEVEL,
        "cause": cause,
        "by_seed": by_seed,
        "two_by_two": parts,
        "flattening": _flattening(list(seeds.values()), wanted),
        "losses": _losses(list(seeds.values()), wanted),
        "windows": {name: dict(arms) for name, arms in seeds.items()},
    }


def _ratios(arms: Arms) -> dict[str, dict[str, float]]:
    """Every arm over ``constant``, by quantity and arm."""
    constant = arms["constant"]
    return {
        column: {
            arm: arms[arm][column] / constant[column] for arm in arms if arm not in ("trunk", "constant")
        }
        for column in (*COLUMNS, "norm")
        if all(column in each for each in arms.values())
    }


def _two_by_two(seeds: Sequence[Arms], column: str, wanted: int) -> dict[str, Any]:
    """Parts of the rate and of the norm in one quantity; they add up to the total, in logarithms."""
    there = [arms for arms in seeds if all(column in arms[arm] for arm in SQUARE)]
    if len(there) < wanted:
        return {"cause": NOT_JUDGED}
    constant, decay, held, shrunk = (np.log([arms[arm][column] for arms in there]) for arm in SQUARE)
    rate = ((held - constant) + (decay - shrunk)) / 2
    norm = ((shrunk - constant) + (decay - held)) / 2
    total, contrast = t_interval(decay - constant), t_interval(rate - norm)
    cause = "cannot tell"
    if total["lower"] > 0 and contrast["lower"] > 0:
        cause = "rate"
    elif total["lower"] > 0 and contrast["upper"] < 0:
        cause = "norm"
    return {
        "cause": cause,
        "times": times(total),
        "times_rate": times(t_interval(rate)),
        "times_norm": times(t_interval(norm)),
        "contrast_log": contrast,
    }


def _flattening(seeds: Sequence[Arms], wanted: int) -> dict[str, Any]:
    """SAM, Muon and the moving average against ``constant``; Holm's correction over the three sensitivities."""
    logs = {arm: _against_constant(seeds, arm) for arm in FLATTENING}
    judged = {arm: values for arm, values in logs.items() if len(values) >= wanted}
    p_values = {arm: float(stats.ttest_1samp(values, 0).pvalue) for arm, values in judged.items()}
    found: dict[str, Any] = {
        arm: {"verdict": NOT_JUDGED, "seeds": len(values)} for arm, values in logs.items()
    }
    largest = 0.0
    for rank, arm in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[arm] * (len(FLATTENING) - rank)))
        estimate = t_interval(judged[arm])
        direction = "lowers" if estimate["estimate"] < 0 else "raises"
        verdict = direction if largest <= 1 - LEVEL else "cannot tell"
        found[arm] |= {"verdict": verdict, "p_holm": largest, "times_sensitivity": times(estimate)}
        damage = _against_constant(seeds, arm, "damage_nats")
        found[arm]["times_damage"] = times(t_interval(damage))
    return found


def _losses(seeds: Sequence[Arms], wanted: int) -> dict[str, Any]:
    """Own loss of fp32 and of INT4 in every arm minus ``constant``'s, nats; decides nothing."""
    found: dict[str, Any] = {}
    for arm in ARMS[2:]:
        pairs = [(each[arm], each["constant"]) for each in seeds if {arm, "constant"} <= each.keys()]
        if len(pairs) >= wanted:
            found[arm] = {
                f"{model}_nats": t_interval([one[name] - other[name] for one, other in pairs])
                for model, name in (("fp32", "fp32_nll_nats"), ("int4", "int4_nll_nats"))
            }
    return found


def _against_constant(seeds: Sequence[Arms], arm: str, name: str = "sensitivity_nats") -> list[float]:
    """Log of the arm's number minus that of ``constant``'s in every seed that has both."""
    pairs = [(each[arm], each["constant"]) for each in seeds if {arm, "constant"} <= each.keys()]
    return [math.log(one[name] / other[name]) for one, other in pairs if name in one and name in other]


def interventions(folder: Path, wanted: int = MIN_SEEDS) -> dict[str, Any]:
    """The decision on the seeds that ``folder`` holds."""
    runs = sorted(folder.glob("seed*/run.json"))
    return decide({path.parent.name: windows(RunFolder(path.parent)) for path in runs}, wanted)
