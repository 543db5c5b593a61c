"""A report whose mechanism is known: simulated controls of INT4 beside the made-up trajectory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.mechanism.explain import explain
from pipeline.analysis.trajectory.stages import Phase
from tests.analysis.trajectory.mechanisms import TrueGrowth, simulated_run
from tests.report import synthetic

MOSTLY_SENSITIVITY = TrueGrowth(1.05, 2.2, 1.15)


def explained(truth: TrueGrowth = MOSTLY_SENSITIVITY, seed: int = 0) -> tuple[pl.DataFrame, AuditReport]:
    """(trajectory, report) of a run that grows as ``truth`` says, with one checkpoint that is not a number."""
    run = simulated_run(truth, seed)
    run.signs_TSB[20] = np.nan
    phases = (Phase(1, 100, 900), Phase(2, 1000, 3000), Phase(3, 3100, 6000))
    found = explain([run], headline="int4", labels={"int4": "INT4"}, phases=phases, n_null=19)
    assert found is not None
    fp32 = run.fp32_TB.mean(axis=1)
    columns: dict[str, Any] = {
        "step": run.step,
        "fp32_nll_nats": fp32,
        "int4_nll_nats": fp32 + run.damage,
        "learning_rate": np.linspace(2e-3, 2e-4, len(fp32)),
    }
    for name, values in run.factors().items():
        columns |= {f"int4_{name}": values, f"int4_{name}_se": 0.03 * values * (name != "error_size")}
    ahead, back = (run.line_TB[a].mean(axis=1) for a in (0.5, -0.5))
    columns |= {"int4_slope": ahead - back, "int4_curvature": 4 * (ahead + back)}
    report = synthetic.read(
        {"suite": "why", "variants": {"fp32": "fp32", "int4": "int4-g128-asym"}, "verdict": [found.sentence]}
    )
    summary = replace(report.summary, phases=phases)
    return pl.DataFrame(columns), replace(report, summary=summary, mechanism=found)
