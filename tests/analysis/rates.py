"""The rates that `detect_phases` reaches on labelled curves.

`python -m tests.analysis.rates [N]` prints, per kind of curve, the share with an onset claimed and, where
there is one, the median error in checkpoints and the coverage of the 95 % interval, from N curves of each
kind.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

from tests.analysis.simulate import HARD_KINDS, NULL_KINDS, ONSET_KINDS, simulate


@dataclass(frozen=True)
class Rates:
    """What happened over n curves of one kind; errors in checkpoints, a miss is infinite and not covered."""

    n: int
    claimed: float
    median_error: float
    covered: float
    median_width: float


def measure(kind: str, n: int, *, seed: int = 0) -> Rates:
    """Run `detect_phases` on n fresh curves of one kind."""
    from pipeline.analysis.phases import detect_phases

    claimed, covered, errors, widths = 0, 0, [], []
    for i in range(n):
        case = simulate(kind, seed * 1_000_003 + i)
        report = detect_phases(case.curve, seed=i)
        claimed += report.onset_step is not None
        if case.onset is None:
            continue
        if report.onset_step is None or report.onset_ci is None:
            errors.append(np.inf)
            continue
        index = np.interp(
            [report.onset_step, case.onset, *report.onset_ci],
            case.curve.step,
            np.arange(len(case.curve.step)),
        )
        errors.append(abs(index[0] - index[1]))
        covered += bool(report.onset_ci[0] <= case.onset <= report.onset_ci[1])
        widths.append(index[3] - index[2])
    width = float(np.median(widths)) if widths else np.nan
    return Rates(n, claimed / n, float(np.median(errors)) if errors else np.nan, covered / n, width)


def main(n: int, only: str = "") -> None:
    """Print the table of rates."""
    print(f"{'kind':24} {'n':>4} {'claimed':>8} {'error':>6} {'covered':>8} {'width':>6} {'s/call':>6}")
    for kind in [f"null/{k}" for k in NULL_KINDS] + [f"onset/{k}" for k in ONSET_KINDS] + [*HARD_KINDS]:
        if only not in kind:
            continue
        start = time.perf_counter()
        r = measure(kind, n)
        seconds = (time.perf_counter() - start) / n
        row = (
            f"{kind:24} {n:4d} {r.claimed:8.3f} {r.median_error:6.2f} {r.covered:8.3f} {r.median_width:6.1f}"
        )
        print(f"{row} {seconds:6.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, sys.argv[2] if len(sys.argv) > 2 else "")
