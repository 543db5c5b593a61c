"""When does training ruin a language model for 4-bit deployment? The public Python API.

Audit a suite, read its trajectory, find its phases, and measure a model in memory on the same tokens::

    suite = open_suite("tiny")
    audit(suite, "outputs/tiny")
    table = read_trajectory("outputs/tiny")
    phases = detect_phases(read_curve("outputs/tiny"))
    model = AutoModelForCausalLM.from_pretrained(suite.checkpoints[-1].location)
    scores = measure(model, read_tokens("outputs/tiny"))

``AutoModelForCausalLM`` is of transformers; everything else is of this module. Names are loaded when they are used, so
importing the module loads neither torch nor Ray. What the names stand for is documented where they are defined.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.base.versions import __version__

if TYPE_CHECKING:
    from pipeline.analysis.statistics.curves import Curve
    from pipeline.analysis.trajectory.findings import PhaseReport
    from pipeline.analysis.trajectory.phase_detection import detect_phases
    from pipeline.analysis.trajectory.reduction import curve_of as read_curve
    from pipeline.analysis.trajectory.reduction import trajectory_of as read_trajectory
    from pipeline.base.errors import CheckpointError, CollapseError, UsageError
    from pipeline.monitor.observing import Monitor
    from pipeline.monitor.trainer_callback import Int4Callback
    from pipeline.monitor.verdicts import Verdict
    from pipeline.probe.in_memory import measure
    from pipeline.runs.python_calls import audit_suite as audit
    from pipeline.runs.python_calls import fork_suite as fork
    from pipeline.runs.python_calls import tokens_of as read_tokens
    from pipeline.suites import Suite
    from pipeline.train.on_demand import open_or_train as open_suite

_PLACES = {
    "CheckpointError": "pipeline.base.errors:CheckpointError",
    "CollapseError": "pipeline.base.errors:CollapseError",
    "Curve": "pipeline.analysis.statistics.curves:Curve",
    "Int4Callback": "pipeline.monitor.trainer_callback:Int4Callback",
    "Int4LightningCallback": "pipeline.monitor.lightning_callback:Int4LightningCallback",  # needs lightning
    "Monitor": "pipeline.monitor.observing:Monitor",
    "PhaseReport": "pipeline.analysis.trajectory.findings:PhaseReport",
    "Suite": "pipeline.suites:Suite",
    "UsageError": "pipeline.base.errors:UsageError",
    "Verdict": "pipeline.monitor.verdicts:Verdict",
    "audit": "pipeline.runs.python_calls:audit_suite",
    "detect_phases": "pipeline.analysis.trajectory.phase_detection:detect_phases",
    "fork": "pipeline.runs.python_calls:fork_suite",
    "measure": "pipeline.probe.in_memory:measure",
    "open_suite": "pipeline.train.on_demand:open_or_train",
    "read_curve": "pipeline.analysis.trajectory.reduction:curve_of",
    "read_tokens": "pipeline.runs.python_calls:tokens_of",
    "read_trajectory": "pipeline.analysis.trajectory.reduction:trajectory_of",
}

__all__ = [
    "CheckpointError", "CollapseError", "Curve", "Int4Callback", "Monitor", "PhaseReport", "Suite", "UsageError",
    "Verdict", "__version__", "audit", "detect_phases", "fork", "measure", "open_suite", "read_curve",
    "read_tokens", "read_trajectory",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What ``name`` stands for, imported at first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    globals()[name] = found
    return found
