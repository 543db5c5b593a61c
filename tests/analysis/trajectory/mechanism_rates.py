"""How often the rule of the mechanism names the right cause, a wrong one, or none, and what its intervals cover.

`python -m tests.analysis.trajectory.mechanism_rates --n 200 [--write]` prints the table and, with `--write`, keeps it
in docs/mechanism.md. Runs have 60 checkpoints, 8 seeds and 32 batches unless said.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.analysis.trajectory.growth import Window
from pipeline.analysis.trajectory.mechanism.control_losses import FACTORS
from pipeline.analysis.trajectory.mechanism.growth_shares import Cause, GrowthShares, split_growth
from tests.analysis.trajectory.mechanisms import TrueGrowth, simulated_run

DOCUMENT = Path(__file__).parents[3] / "docs" / "mechanism.md"
CELLS = {
    "no growth": (TrueGrowth(), Cause.NO_GROWTH),
    "sensitivity x1.5": (TrueGrowth(sensitivity=1.5), Cause.SENSITIVITY),
    "sensitivity x3": (TrueGrowth(sensitivity=3), Cause.SENSITIVITY),
    "alignment x1.5": (TrueGrowth(alignment=1.5), Cause.ALIGNMENT),
    "alignment x3": (TrueGrowth(alignment=3), Cause.ALIGNMENT),
    "error size x1.5": (TrueGrowth(error_size=1.5), Cause.ERROR_SIZE),
    "sensitivity x2, alignment x1.15": (TrueGrowth(sensitivity=2, alignment=1.15), Cause.SENSITIVITY),
    "sensitivity and alignment x1.5": (TrueGrowth(sensitivity=1.5, alignment=1.5), Cause.CANNOT_TELL),
    "all three x1.3": (TrueGrowth(1.3, 1.3, 1.3), Cause.CANNOT_TELL),
    "sensitivity x2, error size x0.8": (TrueGrowth(error_size=0.8, sensitivity=2), Cause.SENSITIVITY),
    "sensitivity x1.5, memory 0.5": (TrueGrowth(sensitivity=1.5, memory=0.5), Cause.SENSITIVITY),
    "halves, memory 0.5": (TrueGrowth(sensitivity=1.5, alignment=1.5, memory=0.5), Cause.CANNOT_TELL),
    "halves, luck 0.2": (TrueGrowth(sensitivity=1.5, alignment=1.5, luck=0.2), Cause.CANNOT_TELL),
    "halves, 4 seeds, 8 batches": (
        TrueGrowth(sensitivity=1.5, alignment=1.5, n_draws=4, n_batches=8),
        Cause.CANNOT_TELL,
    ),
}
"""The kinds of runs, and what the rule should say with enough data."""


@dataclass(frozen=True)
class CauseRates:
    """Shares of the runs of one kind."""

    right: float
    wrong: float
    """Named a factor that is not the cause; "cannot tell" and "no growth" name none."""
    covered: float
    """Intervals of shares that hold the truth, where there are any; of the growth where the truth is none."""
    width: float
    """Median width of the widest interval of a share."""


def measure_causes(truth: TrueGrowth, cause: Cause, n: int, *, seed: int = 0) -> CauseRates:
    """The rule on n fresh runs of one kind."""
    said, covered, widths = [], [], []
    for index in range(n):
        run = simulated_run(truth, seed + index)
        last = int(run.step[-1])
        found = split_growth(run, Window(100, int(0.4 * last)), Window(int(0.91 * last), last), seed=index)
        assert isinstance(found, GrowthShares)
        said.append(found.cause)
        if truth == TrueGrowth():
            covered.append(found.times.lower <= 1 <= found.times.upper)
        for each, share in zip(found.factors, truth.shares, strict=True):
            if each.share is not None and np.isfinite(share):
                covered.append(each.share.lower <= share <= each.share.upper)
        known = [each.share.upper - each.share.lower for each in found.factors if each.share is not None]
        widths.append(max(known, default=np.nan))
    named = [each for each in said if each.value in FACTORS]
    return CauseRates(
        right=float(np.mean([each is cause for each in said])),
        wrong=sum(each is not cause for each in named) / n,
        covered=float(np.mean(covered)),
        width=float(np.nanmedian(widths)) if np.isfinite(widths).any() else float("nan"),
    )


def table_of(rates: dict[str, CauseRates]) -> str:
    """The table of the document."""
    head = "| truth | right answer | right | wrong cause | interval covers | width |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| {name} | {CELLS[name][1]} | {r.right:.2f} | {r.wrong:.3f} | {r.covered:.3f} | {r.width:.2f} |\n"
        for name, r in rates.items()
    )


def main() -> None:
    """Measure, print and perhaps keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="runs of each kind")
    parser.add_argument("--write", action="store_true", help="keep the table in the document")
    options = parser.parse_args()
    rates = {}
    for name, (truth, cause) in CELLS.items():
        rates[name] = measure_causes(truth, cause, options.n)
        print(name, rates[name], flush=True)
    if options.write:
        before, _, rest = DOCUMENT.read_text().partition("<!-- rates -->\n")
        after = rest.partition("<!-- end -->")[2]
        DOCUMENT.write_text(f"{before}<!-- rates -->\n{table_of(rates)}<!-- end -->{after}")


if __name__ == "__main__":
    main()
