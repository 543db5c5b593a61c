"""What every stopping rule would have cost, on every committed suite: the code of `monitor --replay`, as a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.analysis.statistics.curves import Curve
from pipeline.analysis.trajectory.reduction import read_table
from pipeline.monitor.replay import replay
from tests.evidence.findings_file import SCHEDULES
from tests.evidence.losses import read_losses

SUITES = (
    *(f"schedules/{name}-seed{seed}" for name in SCHEDULES for seed in (0, 1)),
    "sweeps/suite",
    "methods/constant",
    "methods/wsd",
    "methods/cosine",
    *(f"methods/second/{name}" for name in SCHEDULES),
    "grids",
    "overtrained",
)
EXPERIMENTS = ("convergence", "sizes")
"""Experiments told in two rows: suites at a constant rate, and those that end in a decay."""
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
    suites += [_outcome(name, curve) for name, curve in _trained(reference)]
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


def _trained(reference: Path) -> Iterator[tuple[str, Curve]]:
    """The suites of the experiments, whose shards are not reduced; a branch has its trunk's checkpoints before it."""
    for experiment in EXPERIMENTS:
        for run in sorted((reference / experiment).glob("*constant-seed*/run.json")):
            constant = read_losses(run.parent)
            yield f"{experiment}/{run.parent.name}", constant.curve()
            branch = run.parent.with_name(run.parent.name.replace("constant", "wsd"))
            if (branch / "run.json").is_file():
                yield f"{experiment}/{branch.name}", read_losses(branch).after(constant).curve()


def _suite(reference: Path, name: str) -> dict[str, Any]:
    report = reference / name / "report.json"
    decision = json.loads(report.read_text())["decision"] if report.is_file() else None
    return _outcome(name, _curve(reference, name), decision)


def _outcome(name: str, curve: Curve, decision: dict[str, Any] | None = None) -> dict[str, Any]:
    found = replay(curve, "int4")
    rules = {
        each.rule: {
            "stopped_at": each.stopped_at,
            "shipped_step": each.shipped_step,
            "regret_nats": each.regret_nats,
        }
        for each in found.rules
    }
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
    for name, members in _rows(found["suites"]).items():
        means = [
            statistics.fmean(each["rules"][rule]["regret_nats"] for each in members) for rule in READINGS
        ]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    for title in ("mean", "largest"):
        cells = [f"**{found['over_suites'][rule][title]:.3f}**" for rule in READINGS]
        lines.append(f"| **{title}** | " + " | ".join(cells) + " |")
    stopped = [f"{found['over_suites'][rule]['stopped']} of {len(found['suites'])}" for rule in READINGS]
    lines.append("| **suites in which it stopped** | " + " | ".join(stopped) + " |")
    return "\n".join(lines)


def _rows(suites: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The suites of each row: one, or all of an experiment under one schedule."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for suite in suites:
        experiment, _, name = suite["suite"].partition("/")
        if experiment in EXPERIMENTS:
            schedule = "constant" if "constant" in name else "wsd"
            rows.setdefault(f"{experiment}, `{schedule}`, mean", []).append(suite)
        else:
            rows[suite["suite"]] = [suite]
    return {f"{name} of {len(each)}" if len(each) > 1 else name: each for name, each in rows.items()}
