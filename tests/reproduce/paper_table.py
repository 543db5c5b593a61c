"""The paper's numbers beside ours, as JSON and Markdown. What was not measured is null, with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from tests.reproduce.paper import CLAIMS, CONVERGENCE_STEP

LEVEL = 0.95


@dataclass(frozen=True)
class Ours:
    """One of our numbers with its 95 % interval."""

    value: float | str | None
    lower: float | None = None
    upper: float | None = None
    reason: str = ""
    """Why there is no value."""

    @property
    def words(self) -> str:
        if self.value is None:
            return f"- ({self.reason})"
        interval = f" [{_short(self.lower)}, {_short(self.upper)}]" if self.lower is not None else ""
        return f"{_short(self.value)}{interval}"


def our_numbers(audit: Path, fork: Path) -> dict[str, Ours]:
    """Our number for every claim of the paper, from the folders of the two experiments (which may not exist yet)."""
    report = _read(audit / "report.json")
    schedules = _read(fork / "tables" / "schedules.json")
    found: dict[str, Ours] = {}
    if report is not None:
        found |= _of_audit(report, pl.read_parquet(audit / "tables" / "trajectory.parquet"))
    if schedules is not None:
        found |= _of_fork(schedules)
    return {each.key: found.get(each.key, Ours(None, reason="not measured")) for each in CLAIMS}


def _of_audit(report: Mapping[str, Any], curve: pl.DataFrame) -> dict[str, Ours]:
    finite = curve.filter(pl.col("fp32_nll_nats").is_finite())
    best = finite["fp32_nll_nats"].arg_min()
    kurtosis = report["kurtosis_test"]
    batches = report["config"]["shape"]["batches"]
    follows = report["predictors"]
    return {
        "checkpoints": Ours(curve.height),
        "fp32_best_step": Ours(None, reason="no finite loss") if best is None else Ours(finite["step"][best]),
        "convergence_step": _step(report, "convergence"),
        "int4_gap_at_convergence": _gap_at(curve, CONVERGENCE_STEP, batches),
        "int4_gap_last": _gap_at(curve, int(curve["step"].to_numpy().max()), batches),
        "int4_gap_max": _percent(report["int4_gap_max"]),
        "int8_gap_max": _percent(report["int8_gap_max"]),
        "onset_step": _step(report, "onset"),
        "follows": Ours(follows["follows"], reason=follows["reason"] or ""),
        "kurtosis_r": Ours(
            kurtosis["pearson_r"], *(kurtosis["pearson_ci"] or (None, None)), kurtosis.get("reason") or ""
        ),
    }


def _of_fork(report: Mapping[str, Any]) -> dict[str, Ours]:
    live = {row["arm"]: row for row in report["comparisons"] if row["weights"] == "live"}
    found = {}
    if "sgdr" in live:
        tests = live["sgdr"]["tests"]
        found["sgdr_wins"] = Ours(f"{tests['wins']} of {tests['pairs']}")
    if "oli" in live:
        row = live["oli"]
        found["oli_gap_points"] = _difference(row["over_run"]["gap_points"])
        found["oli_fp32_nats"] = _difference(row["over_run"]["fp32_nats"])
        found["oli_t"] = Ours(row["tests"]["naive"]["t"], reason="its probes do not differ")
    return found


def write_table(folder: Path, about: Mapping[str, Any], numbers: Mapping[str, Ours]) -> None:
    """Writes ``reproduction.json`` and ``reproduction.md`` into ``folder``."""
    rows = [{**asdict(claim), "ours": asdict(numbers[claim.key])} for claim in CLAIMS]
    (folder / "reproduction.json").write_text(json.dumps({**about, "claims": rows}, indent=1) + "\n")
    lines = ["| | the paper | here |", "|---|---|---|"]
    lines += [f"| {claim.what} | {claim.paper} | {numbers[claim.key].words} |" for claim in CLAIMS]
    checks = ["| check | wanted | found | |", "|---|---|---|---|"]
    checks += [
        f"| {each['name']} | {each['wanted']} | {each['found']} | {'holds' if each['holds'] else 'does not hold'} |"
        for each in about["checks"]
    ]
    cost = about["expected_cost"]
    told = (
        f"Expected: {cost['download_gb']:.2f} GB to download, {cost['audit_gpu_hours']:.2f} GPU hours for the audit "
        f"and {cost['fork_gpu_hours']:.2f} for the fork ({cost['rule']})."
    )
    head = f"# {about['suite']}: the paper's numbers beside ours\n\nBrackets are 95 % intervals. {about['selection']}"
    (folder / "reproduction.md").write_text(
        "\n\n".join([head, "\n".join(lines), "\n".join(checks), told]) + "\n"
    )


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _step(report: Mapping[str, Any], event: str) -> Ours:
    lower, upper = report[f"{event}_ci"] or (None, None)
    return Ours(report[f"{event}_step"], lower, upper, report[f"{event}_reason"] or "")


def _percent(gap: float | None) -> Ours:
    return Ours(None, reason="no finite gap") if gap is None else Ours(100 * gap)


def _gap_at(curve: pl.DataFrame, step: int, batches: int) -> Ours:
    """The gap in per cent, with Student's interval over the evaluation batches."""
    row = curve.filter(pl.col("step") == step)
    if row.is_empty():
        return Ours(None, reason=f"step {step:,} is not measured")
    gap, se = (100 * float(row[name][0]) for name in ("int4_gap", "int4_gap_se"))
    if not np.isfinite(gap):
        return Ours(None, reason="diverged")
    if not np.isfinite(se):
        return Ours(gap)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, batches - 1)) * se
    return Ours(gap, gap - half, gap + half)


def _difference(estimate: Mapping[str, Any]) -> Ours:
    return Ours(estimate["estimate"], estimate["lower"], estimate["upper"], "no run is left")


def _short(value: float | str | None) -> str:
    if isinstance(value, str) or value is None:
        return str(value)
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    )
