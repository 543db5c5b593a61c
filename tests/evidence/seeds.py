"""Intervals over trainings: Student's t over seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
NOT_JUDGED = "not judged"


def t_interval(values: Any, level: float = LEVEL) -> dict[str, float]:
    """Mean and interval over seeds, Student's t; values: (seeds,), two at least."""
    mean = float(np.mean(values))
    quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"estimate": mean, "lower": mean - half, "upper": mean + half}


def times(estimate: dict[str, float]) -> dict[str, float]:
    """An interval of logarithms as one of ratios."""
    return {key: math.exp(value) for key, value in estimate.items()}
