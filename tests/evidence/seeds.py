"""Intervals over trainings, as the files of the decisions hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.analysis.statistics.intervals import LEVEL, mean_half_width

__all__ = ["LEVEL", "NOT_JUDGED", "t_interval", "times"]
NOT_JUDGED = "not judged"


def t_interval(values: Any) -> dict[str, float]:
    """Mean and interval over seeds, Student's t; values: (seeds,), two at least."""
    found = np.asarray(values, dtype=np.float64)
    mean, half = float(found.mean()), mean_half_width(found)
    return {"estimate": mean, "lower": mean - half, "upper": mean + half}


def times(estimate: dict[str, float]) -> dict[str, float]:
    """An interval of logarithms as one of ratios."""
    return {key: math.exp(value) for key, value in estimate.items()}
