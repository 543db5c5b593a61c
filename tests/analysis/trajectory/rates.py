"""The error rates of `detect_phases`: false alarms, detection, error, coverage, convergence and which event.

`python -m tests.analysis.trajectory.rates --n 40 [--only GROUP/NAME] [--write]` measures the kinds of curves of
`cells`, prints them and, with `--write`, keeps them in rates.json and in the tables of docs/decision-rules.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.statistics.nulls import N_NULL
from pipeline.analysis.trajectory.phase_detection import ALPHA, detect_phases
from tests.analysis.trajectory.cells import GROUPS, Cell
from tests.analysis.trajectory.shapes import settled_at
from tests.analysis.trajectory.simulate import simulate

TABLE = Path(__file__).with_name("rates.json")
DOCUMENT = Path(__file__).parents[3] / "docs" / "decision-rules.md"


@dataclass(frozen=True)
class Rates:
    """What happened over n curves of one kind; errors and widths in checkpoints, None where there is none."""

    n: int
    n_null: int
    """Simulated curves without an onset behind each p-value, at most."""
    claimed: float
    """Share with an onset."""
    on_time_alone: float
    """Share with an onset as far as time alone is asked (p_onset)."""
    error_median: float | None
    error_90: float | None
    covered: float | None
    """Share of the claimed onsets whose interval holds the truth."""
    width: float | None
    at_or_after: float | None
    """Share of the claimed onsets whose interval is open."""
    converged: float
    """Share with a convergence."""
    convergence_bias: float | None
    """Median of estimate minus estimand."""
    convergence_covered: float | None
    convergence_width: float | None
    second_phase: float
    """Share with a second phase."""
    follows: dict[str, float]
    """Verdict -> share."""
    right: float | None
    """Share with the right event, where one is asked for."""


def _median(values: list[float], share: float = 0.5) -> float | None:
    return round(float(np.quantile(values, share)), 2) if values else None


def _mean(values: list[bool]) -> float | None:
    return round(float(np.mean(values)), 3) if values else None


def measure(cell: Cell, n: int, *, seed: int = 0, n_null: int = N_NULL) -> Rates:
    """Run `detect_phases` on n fresh curves of one kind."""
    reports, onset_errors, onset_widths, onset_covered = [], [], [], []
    biases, widths, covered = [], [], []
    for i in range(n):
        case = simulate(cell.truth, seed + i)
        report = detect_phases(case.curve, seed=i, n_null=n_null)
        reports.append(report)
        if report.onset_ci is not None and report.onset_step is not None and case.onset is not None:
            onset_errors.append(abs(_rows(case.curve, report.onset_step) - _rows(case.curve, case.onset)))
            onset_widths.append(_width(case.curve, report.onset_ci))
            onset_covered.append(report.onset_ci[0] <= case.onset <= report.onset_ci[1])
        if report.convergence_ci is not None and report.convergence_step is not None:
            last = case.curve.step[-1]
            truth = settled_at(case.curve.step / last, case.fp32_nats) * last
            biases.append(_rows(case.curve, report.convergence_step) - _rows(case.curve, truth))
            widths.append(_width(case.curve, report.convergence_ci))
            covered.append(report.convergence_ci[0] <= truth <= report.convergence_ci[1])
    follows = Counter(str(report.predictors.follows) for report in reports)
    return Rates(
        n=n,
        n_null=n_null,
        claimed=_mean([r.onset_step is not None for r in reports]) or 0.0,
        on_time_alone=_mean([r.p_onset is not None and r.p_onset <= ALPHA for r in reports]) or 0.0,
        error_median=_median(onset_errors),
        error_90=_median(onset_errors, 0.9),
        covered=_mean(onset_covered),
        width=_median(onset_widths),
        at_or_after=_mean([r.onset_at_or_after for r in reports if r.onset_step is not None]),
        converged=_mean([r.convergence_step is not None for r in reports]) or 0.0,
        convergence_bias=_median(biases),
        convergence_covered=_mean(covered),
        convergence_width=_median(widths),
        second_phase=_mean([any(p.phase == 2 for p in r.phases) for r in reports]) or 0.0,
        follows={name: round(count / n, 3) for name, count in sorted(follows.items())},
        right=None if cell.follows is None else round(follows[str(cell.follows)] / n, 3),
    )


def _rows(curve: Curve, step: float) -> float:
    """A step counted in checkpoints."""
    return float(np.interp(step, curve.step, np.arange(len(curve.step))))


def _width(curve: Curve, ci: tuple[int, int]) -> float:
    return _rows(curve, ci[1]) - _rows(curve, ci[0])


def read_table() -> dict[str, dict[str, Rates]]:
    """The committed rates: group -> name -> rates."""
    kept = json.loads(TABLE.read_text())
    return {group: {name: Rates(**each) for name, each in cells.items()} for group, cells in kept.items()}


def _cell(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def markdown(table: dict[str, dict[str, Rates]]) -> dict[str, str]:
    """The tables of docs/decision-rules.md, by group."""
    onset = "| kind | found | error (90 %) | covers | width | at or after |\n|---|---|---|---|---|---|\n"
    alarms = "| kind | claimed | by time alone |\n|---|---|---|\n"
    heads = {
        "steady": alarms,
        "response": alarms,
        "onset": onset,
        "event": "| truth | right | verdicts |\n|---|---|---|\n",
        "convergence": "| truth | claimed | bias | covers | width |\n|---|---|---|---|---|\n",
    }
    out = {}
    for group, head in heads.items():
        lines = []
        for name, r in table.get(group, {}).items():
            if group in ("steady", "response"):
                cells = [_cell(r.claimed), _cell(r.on_time_alone)]
            elif group == "onset":
                error = f"{_cell(r.error_median, '.1f')} ({_cell(r.error_90, '.1f')})"
                cells = [
                    _cell(r.claimed),
                    error,
                    _cell(r.covered),
                    _cell(r.width, ".0f"),
                    _cell(r.at_or_after),
                ]
            elif group == "event":
                told = ", ".join(f"{verdict} {share:.2f}" for verdict, share in r.follows.items())
                cells = [_cell(r.right), told]
            else:
                bias, width = _cell(r.convergence_bias, "+.1f"), _cell(r.convergence_width, ".0f")
                cells = [_cell(r.converged), bias, _cell(r.convergence_covered), width]
            lines.append(f"| {name} | {' | '.join(cells)} |\n")
        out[group] = head + "".join(lines)
    return out


def write(table: dict[str, dict[str, Rates]]) -> None:
    """Keep the table as JSON, in the order of the cells, and in the document between its marks."""
    ordered = {
        group: {name: table[group][name] for name in cells if name in table.get(group, {})}
        for group, cells in GROUPS.items()
    }
    kept = {group: {name: asdict(r) for name, r in cells.items()} for group, cells in ordered.items()}
    TABLE.write_text(json.dumps(kept, indent=1) + "\n")
    text = DOCUMENT.read_text()
    for group, lines in markdown(ordered).items():
        start, end = f"<!-- rates: {group} -->\n", f"<!-- end: {group} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{lines}{end}{rest.partition(end)[2]}"
    DOCUMENT.write_text(text)


def main() -> None:
    """Measure, print and perhaps keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40, help="curves of each kind")
    parser.add_argument("--only", default="", help="part of GROUP/NAME")
    parser.add_argument("--part", default="1/1", help="every K-th kind, I/K")
    parser.add_argument("--write", action="store_true", help="keep what was measured")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    wanted = [
        (group, name, cell)
        for group, cells in GROUPS.items()
        for name, cell in cells.items()
        if options.only in f"{group}/{name}"
    ]
    for group, name, cell in wanted[part - 1 :: parts]:
        start = time.perf_counter()
        rates = measure(cell, options.n)
        seconds = (time.perf_counter() - start) / options.n
        print(f"{group}/{name:34} {seconds:5.2f} s/curve  {json.dumps(asdict(rates))}", flush=True)
        if options.write:
            table = read_table() if TABLE.exists() else {}
            table.setdefault(group, {})[name] = rates
            write(table)


if __name__ == "__main__":
    main()
