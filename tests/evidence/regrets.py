"""What every stopping rule would have cost, on every committed suite: the code of `monitor --replay`, as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.trajectory.reduction import read_table
from pipeline.monitor.replay import replay

SUITES = (
    *(f"schedules/{name}-seed{seed}" for name in ("constant", "wsd", "cosine") for seed in (0, 1)),
    "sweeps/suite",
    "methods/constant",
    "methods/wsd",
    "methods/cosine",
    "grids",
    "overtrained",
)
EARLIER = tuple(f"schedules/earlier/constant-seed{seed}" for seed in (0, 1))
"""Tables of losses alone: no report."""
READINGS = {
    "monitor": "ours: the monitor's advice",
    "last checkpoint": "ship the last checkpoint",
    "best fp32": "ship the best in fp32",
    "stop at the fp32 plateau": "stop where fp32 stands still (the paper's reading)",
    "stop when the gap grows": "stop when the gap grows",
    "patience 3": "stop after 3 checkpoints without a new best",
}


def regrets(reference: Path) -> dict[str, Any]:
    """Regret in INT4 nats by suite and rule; ``reference`` holds the suites' tables and reports."""
    suites = [_suite(reference, name) for name in (*SUITES, *EARLIER)]
    columns = {rule: [suite["rules"][rule]["regret_nats"] for suite in suites] for rule in READINGS}
    return {
        "unit": "INT4 nats per token over the lowest of the suite",
        "suites": suites,
        "over_suites": {
            rule: {
                "mean": sum(found) / len(found),
                "largest": max(found),
                "stopped": sum(suite["rules"][rule]["stopped_at"] is not None for suite in suites),
            }
            for rule, found in columns.items()
        },
    }


def _suite(reference: Path, name: str) -> dict[str, Any]:
    report = reference / name / "report.json"
    found = replay(_curve(reference, name), "int4")
    rules = {
        each.rule: {
            "stopped_at": each.stopped_at,
            "shipped_step": each.shipped_step,
            "regret_nats": each.regret_nats,
        }
        for each in found.rules
    }
    decision = json.loads(report.read_text())["decision"] if report.is_file() else None
    return {
        "suite": name,
        "n_checkpoints": len(found.verdicts),
        "best_step": found.best_step,
        "rules": rules,
        "regret_of_last": None if decision is None else decision["regret_of_last"],
        "maybe_best": None if decision is None else len(decision["maybe_best"]),
    }


def _curve(reference: Path, name: str) -> Curve:
    table = reference / name / "tables" / "trajectory.parquet"
    return read_table(str(table if table.is_file() else reference / f"{name}.csv"))


def page(found: dict[str, Any]) -> str:
    """A row per suite and three over all, in Markdown."""
    lines = ["| suite | " + " | ".join(READINGS.values()) + " |", "|---|" + "---|" * len(READINGS)]
    for suite in found["suites"]:
        cells = [f"{suite['rules'][rule]['regret_nats']:.3f}" for rule in READINGS]
        lines.append(f"| {suite['suite']} | " + " | ".join(cells) + " |")
    for title in ("mean", "largest"):
        cells = [f"**{found['over_suites'][rule][title]:.3f}**" for rule in READINGS]
        lines.append(f"| **{title}** | " + " | ".join(cells) + " |")
    stopped = [f"{found['over_suites'][rule]['stopped']} of {len(found['suites'])}" for rule in READINGS]
    lines.append("| **suites in which it stopped** | " + " | ".join(stopped) + " |")
    return "\n".join(lines)
