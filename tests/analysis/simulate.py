"""Labelled curves with a known answer.

Noise: NOISE = 0.0033 is the standard deviation of the INT4 gap about a local line in the measured 3 M
parameter trajectory (second differences; 0.0029 to 0.0041 over its parts, no trend with the gap's level).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.curves import Curve

NOISE = 0.0033
Array = NDArray[np.float64]
Rng = np.random.Generator
SCALES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "gap": (lambda g: g, lambda y: y),
    "nats": (np.log1p, np.expm1),
    "log": (np.log, np.exp),
}


@dataclass(frozen=True)
class Labelled:
    """A curve and the step at which its gap's growth rate really changes (None: it never does)."""

    curve: Curve
    onset: float | None


def pythia_steps(last: int = 14_300) -> NDArray[np.int64]:
    """0, 1, 2, 4, ... 512 and every last/143 up to `last`: 154 checkpoints, fewer where they coincide."""
    powers = [2**k for k in range(10) if 2**k <= last]
    return np.unique(np.concatenate([[0], powers, np.arange(1, 144) * last // 143])).astype(np.int64)


def even_steps(n: int, last: int = 14_300) -> NDArray[np.int64]:
    """n evenly spaced steps from 0."""
    return np.round(np.linspace(0, last, n)).astype(np.int64)


def ar1(rng: Rng, n: int, phi: float) -> Array:
    """Unit-variance autoregressive noise."""
    e = rng.standard_normal(n)
    for i in range(1, n):
        e[i] = phi * e[i - 1] + np.sqrt(1 - phi**2) * e[i]
    return e


def fp32_curve(rng: Rng, x: Array, kind: str = "monotone") -> Array:
    """Loss in nats over x = step / last: decays to the end, flattens at 0.54, or rises after 0.54."""
    base = 1.7 + 0.55 * np.exp(-x / 0.12) + 6.0 * np.exp(-x / 0.012)
    late = np.maximum(x - 0.54, 0.0)
    slope = {"monotone": -0.15 * x, "plateau": -0.4 * np.minimum(x, 0.54), "rise": -0.4 * np.minimum(x, 0.54)}
    rise = 0.5 * late if kind == "rise" else 0.0
    return base + slope[kind] + rise + (0.0035 + 0.008 * np.exp(-x / 0.3)) * rng.standard_normal(len(x))


def build(
    rng: Rng,
    step: NDArray[np.int64],
    gap: Array,
    *,
    phi: float = 0.0,
    sd: float | Array = NOISE,
    fp32: str = "monotone",
    tails: bool = False,
    onset: float | None = None,
    nan_tail: int = 0,
) -> Labelled:
    """Add noise to a true gap and wrap it as a table-only curve."""
    x = step / step[-1]
    e = rng.standard_t(4, len(x)) / np.sqrt(2) if tails else ar1(rng, len(x), phi)
    loss = fp32_curve(rng, x, fp32)
    noisy = np.maximum(gap + sd * e, -0.9)
    int4 = loss + np.log1p(noisy)
    int8 = loss + 0.0005 * rng.standard_normal(len(x))
    if nan_tail:
        loss[-nan_tail:] = int4[-nan_tail:] = np.nan
    return Labelled(Curve(step, loss, {"int8": int8, "int4": int4}), onset)


def kinked(x: Array, at: float, ratio: float, first: float, last: float, scale: str = "gap") -> Array:
    """Straight lines on `scale` from `first` to `last`, the slope multiplied by `ratio` at x = `at`."""
    forward, back = SCALES[scale]
    lo, hi = forward(np.array([first, last]))
    slope = (hi - lo) / (at + ratio * (1 - at)) if np.isfinite(ratio) else 0.0
    bend = (ratio - 1) * slope if np.isfinite(ratio) else (hi - lo) / (1 - at)
    return back(lo + slope * x + bend * np.maximum(x - at, 0))


def cosine_rate(x: Array) -> Array:
    """Learning rate over its peak: a cosine to a tenth."""
    return 0.55 + 0.45 * np.cos(np.pi * x)


def softened(x: Array, at: float, width: float, first: float, last: float) -> Array:
    """Flat, then straight, joined by a soft-plus of the given width (a share of the run)."""
    soft = width * np.logaddexp(0, (x - at) / width)
    return first + (last - first) * soft / (1 - at)


SMOOTH_KINDS = ("smooth_cubic", "smooth_quartic", "smooth_rate", "smooth_inverse_rate", "smooth_logistic")
"""Growth that speeds up a lot without a step at which it jumps: powers of the step, a straight function of a cosine
learning rate, one over that rate, a logistic of width 0.1; with the noise and memory of the schedules' audits."""


def _null(name: str, rng: Rng) -> Labelled:
    u = rng.uniform
    step = pythia_steps([143_000, 14_300, 1_430][rng.integers(3)])
    if name.startswith("short"):
        step = even_steps(int(rng.integers(10, 41)))
    x = step / step[-1]
    lo, hi = 0.02, u(0.04, 0.10)
    shapes: dict[str, Callable[[], Array]] = {
        "flat": lambda: np.full_like(x, u(0.01, 0.1)),
        "linear": lambda: lo + (hi - lo) * x,
        "saturating": lambda: lo + (hi - lo) * (1 - np.exp(-x / u(0.02, 0.5))),
        "sqrt": lambda: hi * np.sqrt(x),
        "log": lambda: lo + (hi - lo) * np.log1p(x / 0.01) / np.log1p(100),
        "concave_knot": lambda: kinked(x, u(0.2, 0.8), 0.2, lo, hi),
        "exponential": lambda: lo * np.exp(np.log(u(0.04, 0.10) / lo) * x),
        "nats_linear": lambda: np.expm1(u(0.3, 1.8) * x + 0.1),
        "steep_exponential": lambda: 0.11 * np.exp(np.log(u(3, 47)) * x),
        "accelerating": lambda: lo + (hi - lo) * x**2,
        "falling": lambda: hi - (hi - lo) * x,
        "walk": lambda: np.abs(0.05 + 0.0015 * np.cumsum(rng.standard_normal(len(x)))),
        "decay": lambda: 0.02 + 0.06 * np.exp(-x / u(0.02, 0.15)),
        "transient": lambda: lo + 0.03 * (1 - np.exp(-x / u(0.02, 0.08))) + u(0, 0.04) * x,
        "bump": lambda: lo + 0.02 * x + 0.05 * (x / 0.02) * np.exp(1 - x / 0.02),
        "smooth_cubic": lambda: 0.05 + 0.07 * x**3,
        "smooth_quartic": lambda: 0.05 + 0.07 * x**4,
        "smooth_rate": lambda: 0.05 + 0.07 * (1 - cosine_rate(x)) / 0.9,
        "smooth_inverse_rate": lambda: 0.012 / cosine_rate(x),
        "smooth_logistic": lambda: 0.05 + 0.07 / (1 + np.exp(-(x - u(0.4, 0.7)) / 0.1)),
    }
    options: dict[str, dict[str, object]] = {
        "linear_ar8": {"phi": 0.8},
        "linear_ar": {"phi": u(0.3, 0.6)},
        "flat_ar": {"phi": u(0.3, 0.6)},
        "linear_hetero": {"sd": 0.07 * (lo + (hi - lo) * x)},
        "linear_rise": {"fp32": "rise"},
        "linear_tails": {"tails": True},
        "linear_nan": {"nan_tail": int(rng.integers(5, 60))},
    }
    options |= {kind: {"phi": 0.2, "sd": 0.0045} for kind in SMOOTH_KINDS}
    shape = name.removeprefix("short_")
    gap = shapes[shape if shape in shapes else shape.split("_")[0]]()
    return build(rng, step, gap, **options.get(name, {}))  # type: ignore[arg-type]


NULL_KINDS = (
    "flat",
    "linear",
    "saturating",
    "sqrt",
    "log",
    "concave_knot",
    "exponential",
    "nats_linear",
    "steep_exponential",
    "accelerating",
    "falling",
    "decay",
    "transient",
    "bump",
    "linear_ar",
    "flat_ar",
    "linear_hetero",
    "linear_rise",
    "linear_tails",
    "linear_nan",
    "short_flat",
    "short_linear",
    "short_saturating",
)


def _onset(name: str, rng: Rng) -> Labelled:
    at = rng.uniform(0.25, 0.85)
    step = pythia_steps([143_000, 14_300, 1_430][rng.integers(3)])
    if name == "even":
        step = even_steps(144)
    if name == "short":
        step = even_steps(40)
    if name.startswith("rows_"):
        step = even_steps(int(name.removeprefix("rows_")))
    x = step / step[-1]
    ratio = float(rng.choice([5, 10, 50, np.inf]))
    early = 0.02 * (1 - np.exp(-x / 0.03))
    gaps: dict[str, Callable[[], Array]] = {
        "ratio_3": lambda: kinked(x, at, 3, 0.02, 0.09),
        "ratio_5": lambda: kinked(x, at, 5, 0.02, 0.09),
        "ratio_10": lambda: kinked(x, at, 10, 0.02, 0.09),
        "ratio_50": lambda: kinked(x, at, 50, 0.02, 0.09),
        "from_flat": lambda: kinked(x, at, np.inf, 0.02, 0.09),
        "flat_8_to_17": lambda: kinked(x, at, np.inf, 0.08, 0.17),
        "nats": lambda: kinked(x, at, ratio, 0.02, 0.09, "nats"),
        "log_3": lambda: kinked(x, at, 3, 0.02, 0.09, "log"),
        "log": lambda: kinked(x, at, ratio, 0.02, 0.09, "log"),
        "paper_gap": lambda: kinked(x, at, ratio, 0.11, 5.17),
        "paper_nats": lambda: kinked(x, at, ratio, 0.11, 5.17, "nats"),
        "paper_log": lambda: kinked(x, at, ratio, 0.11, 5.17, "log"),
        "paper_3": lambda: kinked(x, at, 3, 0.11, 5.17, str(rng.choice(["gap", "nats", "log"]))),
        "transient": lambda: early + kinked(x, at, ratio, 0.01, 0.08),
        "soft": lambda: softened(x, at, 0.02, 0.02, 0.09),
        "paper_soft": lambda: softened(x, at, 0.02, 0.11, 5.17),
        "ar": lambda: kinked(x, at, ratio, 0.02, 0.09),
        "hetero": lambda: kinked(x, at, ratio, 0.02, 0.09),
        "tails": lambda: kinked(x, at, ratio, 0.02, 0.09),
        "nan": lambda: kinked(x, at, ratio, 0.02, 0.09),
        "even": lambda: kinked(x, at, ratio, 0.02, 0.09),
        "short": lambda: kinked(x, at, ratio, 0.02, 0.09),
        "rows_16": lambda: kinked(x, at, 10, 0.02, 0.09),
        "rows_24": lambda: kinked(x, at, 10, 0.02, 0.09),
        "fp32_rise": lambda: kinked(x, at, ratio, 0.02, 0.09),
    }
    gap = gaps[name]()
    options: dict[str, dict[str, object]] = {
        "ar": {"phi": 0.3},
        "hetero": {"sd": 0.06 * gap},
        "tails": {"tails": True},
        "nan": {"nan_tail": int(rng.integers(2, 10))},
        "fp32_rise": {"fp32": "rise"},
    }
    if name.startswith("paper"):
        options[name] = {"sd": NOISE * (1 + gap)}
    return build(rng, step, gap, onset=at * step[-1], **options.get(name, {}))  # type: ignore[arg-type]


ONSET_KINDS = (
    "ratio_3",
    "ratio_5",
    "ratio_10",
    "ratio_50",
    "from_flat",
    "flat_8_to_17",
    "nats",
    "log_3",
    "log",
    "paper_gap",
    "paper_nats",
    "paper_log",
    "paper_3",
    "transient",
    "soft",
    "paper_soft",
    "ar",
    "hetero",
    "tails",
    "nan",
    "even",
    "short",
    "fp32_rise",
)


HARD_KINDS = (
    *("null/linear_ar8", "null/walk", "onset/rows_16", "onset/rows_24"),
    *(f"null/{kind}" for kind in SMOOTH_KINDS),
)
"""Known weaknesses: reported, held to no bound."""


def simulate(kind: str, seed: int) -> Labelled:
    """One curve of a kind: `null/NAME` has no onset, `onset/NAME` has one."""
    group, name = kind.split("/")
    rng = np.random.default_rng([seed, sum(map(ord, kind))])
    return {"null": _null, "onset": _onset}[group](name, rng)
