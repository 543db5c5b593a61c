"""The kinds of curves whose error rates are measured, by group and name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.analysis.trajectory.schedule_events import Follows
from tests.analysis.trajectory.shapes import ONSETS, RESPONSES, STEADY, WSD_DECAY
from tests.analysis.trajectory.simulate import Truth

P77 = 77 / 143
PAPER = Truth("explosion", at=P77, rate="pythia", stops=P77)
"""The paper's claim: 11 % to 517 % from the step at which full precision stands still, at Pythia's learning rate."""
HALF_PEAK = 72_930 / 143_000
MIN_RATE = 115_139 / 143_000


@dataclass(frozen=True)
class Cell:
    """One kind of curve, and what its onset follows where that is asked."""

    truth: Truth
    follows: Follows | None = None


def _steady() -> dict[str, Cell]:
    cells = {shape: Truth(shape) for shape in STEADY}
    cells |= {
        f"{shape}, cosine": Truth(shape, rate="cosine") for shape in ("linear", "exponential", "quadratic")
    }
    for shape in ("linear", "quadratic"):
        cells |= {f"{shape}, memory {phi}": Truth(shape, memory=phi) for phi in (0.5, 0.9)}
    cells |= {
        "quadratic, no batches": Truth("quadratic", batches=False),
        "quadratic, noise 6 % of the gap": Truth("quadratic", relative_sd=0.06),
        "linear, memory 0.9, no batches": Truth("linear", memory=0.9, batches=False),
        "linear, heavy tails": Truth("linear", heavy_tails=True),
        "linear, one outlier +50 points": Truth("linear", outlier=0.5),
        "linear, 40 not finite": Truth("linear", not_finite=40),
        "linear, 30 % missing": Truth("linear", missing=0.3),
        "linear, 86 duplicates": Truth("linear", duplicates=86),
        "linear, 20 even": Truth("linear", spacing="even_20"),
        "linear, 20 log": Truth("linear", spacing="log_20"),
        "quadratic, 40 even": Truth("quadratic", spacing="even_40"),
        "linear, no rate in the table": Truth("linear", rate=None),
    }
    return {name: Cell(truth) for name, truth in cells.items()}


def _responses() -> dict[str, Cell]:
    cells = {
        f"{shape}, {rate}": Truth(shape, rate=rate)
        for rate, shapes in (
            ("cosine", RESPONSES),
            ("pythia", ("inverse", "inverse_square", "log_rate", "one_minus_cubed", "logistic_wide")),
            ("wsd", ("inverse", "one_minus", "log_rate")),
            ("linear", ("inverse", "one_minus_cubed")),
        )
        for shape in shapes
    }
    cells["inverse, cosine, memory 0.5"] = Truth("inverse", rate="cosine", memory=0.5)
    cells["inverse, cosine, no batches"] = Truth("inverse", rate="cosine", batches=False)
    cells["inverse, cosine, 20 even"] = Truth("inverse", rate="cosine", spacing="even_20")
    return {name: Cell(truth) for name, truth in cells.items()}


def _onsets() -> dict[str, Cell]:
    cells = {shape: Truth(shape) for shape in ONSETS}
    for rate in ("pythia", "cosine", "wsd"):
        cells |= {f"{shape}, {rate}": Truth(shape, rate=rate) for shape in ("explosion", "x10", "x3")}
    damaged = {
        "memory 0.5": {"memory": 0.5},
        "memory 0.9": {"memory": 0.9},
        "heavy tails": {"heavy_tails": True},
        "one outlier +50 points": {"outlier": 0.5},
        "40 not finite": {"not_finite": 40, "at": 0.45},
        "30 % missing": {"missing": 0.3},
        "20 duplicates": {"duplicates": 20},
        "86 duplicates": {"duplicates": 86},
        "no batches": {"batches": False},
        "40 even": {"spacing": "even_40"},
        "20 even": {"spacing": "even_20"},
        "20 log": {"spacing": "log_20"},
    }
    for shape in ("explosion", "x10"):
        for damage, changes in damaged.items():
            cells[f"{shape}, {damage}"] = replace(Truth(shape), **changes)  # type: ignore[arg-type]
    cells["x10, memory 0.9, no batches"] = Truth("x10", memory=0.9, batches=False)
    cells["explosion, pythia, 86 duplicates"] = Truth("explosion", rate="pythia", duplicates=86)
    return {name: Cell(truth) for name, truth in cells.items()}


def _events() -> dict[str, Cell]:
    plateau, half, lowest, decay = (
        Follows.FP32_PLATEAU,
        Follows.HALF_PEAK_LR,
        Follows.MIN_LR,
        Follows.DECAY_START,
    )
    late = {"stops": 60 / 143}
    wsd = Truth("explosion", at=WSD_DECAY, rate="wsd")
    return {
        "paper": Cell(PAPER, plateau),
        "paper, FP32 sd 0.002": Cell(replace(PAPER, fp32_sd=0.002), plateau),
        "paper, FP32 sd 0.001": Cell(replace(PAPER, fp32_sd=0.001), plateau),
        "paper, constant rate": Cell(replace(PAPER, rate="constant"), plateau),
        "paper, no batches": Cell(replace(PAPER, batches=False), plateau),
        "paper, 86 duplicates": Cell(replace(PAPER, duplicates=86), plateau),
        "paper, 20 even": Cell(replace(PAPER, spacing="even_20"), Follows.CANNOT_TELL),
        "paper, FP32 rises 0.05": Cell(replace(PAPER, late_rise=0.05), plateau),
        "paper, FP32 rises 0.3": Cell(replace(PAPER, late_rise=0.3), plateau),
        "paper, stagnates from 7k": Cell(replace(PAPER, stops=None, stagnates=True), plateau),
        "x10 at convergence, wsd": Cell(Truth("x10", at=P77, rate="wsd", stops=P77), plateau),
        "half of the peak": Cell(Truth("explosion", at=HALF_PEAK, rate="pythia", stops=100 / 143), half),
        "half of the peak, x10": Cell(Truth("x10", at=HALF_PEAK, rate="pythia", stops=100 / 143), half),
        "minimum rate": Cell(Truth("explosion", at=MIN_RATE, rate="pythia", **late), lowest),  # type: ignore[arg-type]
        "WSD decay": Cell(replace(wsd, **late), decay),  # type: ignore[arg-type]
        "WSD decay, square root": Cell(replace(wsd, rate="wsd_sqrt", **late), decay),  # type: ignore[arg-type]
        "WSD decay, never converged": Cell(wsd, decay),
        "WSD decay, x10": Cell(replace(wsd, gap="x10", **late), decay),  # type: ignore[arg-type]
        "no event": Cell(Truth("explosion", at=95 / 143, rate="pythia", stops=40 / 143), Follows.NONE),
        "1/rate, converged": Cell(Truth("inverse", rate="pythia", stops=95 / 143), Follows.LEARNING_RATE),
    }


def _convergence() -> dict[str, Cell]:
    cells = {
        f"{place}k, sd {sd}": Truth("linear", stops=place / 143, fp32_sd=sd)
        for place in (30, 60, 77, 100, 118)
        for sd in (0.002, 0.006)
    }
    base = Truth("linear", stops=P77)
    cells |= {
        "77k, sd 0.001": replace(base, fp32_sd=0.001),
        "77k, memory 0.5": replace(base, memory=0.5),
        "77k, memory 0.9": replace(base, memory=0.9),
        "77k, 30 % missing": replace(base, missing=0.3),
        "77k, 20 even": replace(base, spacing="even_20"),
        "77k, no batches": replace(base, batches=False),
        "77k, 86 duplicates": replace(base, duplicates=86),
        "77k, then rises 0.05": replace(base, late_rise=0.05),
        "77k, then rises 0.3": replace(base, late_rise=0.3),
        "stagnates, best at 77k": replace(base, stops=None, stagnates=True),
        "never": replace(base, stops=None),
    }
    return {name: Cell(truth) for name, truth in cells.items()}


GROUPS = {
    "steady": _steady(),
    "response": _responses(),
    "onset": _onsets(),
    "event": _events(),
    "convergence": _convergence(),
}
"""Group -> name -> cell: no onset; a response to the rate; an onset; which event; convergence."""
