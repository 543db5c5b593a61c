"""What the second seed under several quantizers decides, by outputs/reference/methods/second/RULE.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.statistics.intervals import percentiles
from tests.evidence.losses import FP32, INT4, FloatArray, Losses, read_losses

END = (27_600, 28_600)
DECAYED = ("wsd", "cosine")
METHODS = {"gptq": f"{INT4}@gptq", "awq": f"{INT4}@awq"}
DRAWS = 4_000


def share_left(losses: Losses, variant: str, rng: np.random.Generator) -> dict[str, float]:
    """Gap of ``variant`` over that of rounding to nearest at the end, with its interval over text and checkpoints.

    Every draw resamples batches and checkpoints, the same for both variants.
    """
    late = (losses.step >= END[0]) & (losses.step <= END[1])
    fp32, nearest, other = (losses.batches[name][late] for name in (FP32, INT4, variant))
    checkpoints = rng.integers(0, len(fp32), (DRAWS, len(fp32)))
    batches = rng.integers(0, fp32.shape[1], (DRAWS, fp32.shape[1]))

    def ratio(rows: FloatArray | slice, columns: FloatArray | slice) -> float:
        gaps = [np.expm1((each - fp32)[rows][:, columns].mean(axis=1)).mean() for each in (other, nearest)]
        return float(gaps[0] / gaps[1])

    drawn = [ratio(*both) for both in zip(checkpoints, batches, strict=True)]
    lower, upper = percentiles(np.array(drawn))
    return {"estimate": ratio(slice(None), slice(None)), "lower": lower, "upper": upper}


def _found(compared: Sequence[Mapping[str, Any]], schedule: str) -> dict[str, Mapping[str, Any]]:
    """What was compared of one schedule, by variant."""
    return {each["variant"]: each for each in compared if Path(each["folder"]).name.split("-")[0] == schedule}


def _cause(found: Mapping[str, Any]) -> str | None:
    factors = found["factors"]
    cause: str | None = None if factors is None or factors["shares"] is None else factors["shares"]["cause"]
    return cause


def second_seed(folder: Path) -> dict[str, Any]:
    """The verdicts by schedule; ``folder``: outputs/reference/methods/second, compared."""
    methods = folder.parent
    first, mechanism, again = (
        json.loads((path / "comparison.json").read_text())["found"]
        for path in (methods, methods / "mechanism", folder)
    )
    rng = np.random.default_rng(0)
    decision: dict[str, Any] = {}
    for schedule in DECAYED:
        one, two = _found(first, schedule), _found(again, schedule)
        grows = {
            name: [found[name]["growth"]["lower"] > 1 for found in (one, two)]
            for name in two
            if name != "int8"
        }
        losses = read_losses(folder / schedule)
        left = {method: share_left(losses, variant, rng) for method, variant in METHODS.items()}
        causes = [_cause(_found(mechanism, schedule)["int4"]), _cause(two["int4"])]
        decision[schedule] = {
            "grows": grows,
            "survives_in_both": sum(all(each) for each in grows.values()),
            "quantizers": len(grows),
            "share_left": left,
            "reduces": {method: each["upper"] < 1 for method, each in left.items()},
            "causes": causes,
            "same_cause": causes[0] is not None and causes[0] == causes[1],
        }
    return decision
