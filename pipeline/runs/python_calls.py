"""Audits and fork experiments as one call from Python, from the same options as the commands."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.errors import unknown_name
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.fork_request import build_fork_request
from pipeline.runs.output import run_folder
from pipeline.runs.progress import Progress, RunSummary
from pipeline.suites import Suite

OnProgress = Callable[["Progress"], None]


def audit_suite(
    suite: str | Suite, out: str | Path, *, on_progress: OnProgress = lambda _: None, **options: Any
) -> RunSummary:
    """Measure every checkpoint of ``suite`` that has no shard in ``out`` yet; a rerun resumes.

    options: fields of :class:`AuditOptions`, such as ``limit``, ``variants``, ``corpus`` and ``device``. Raises
    UsageError for what cannot be carried out; a checkpoint that cannot be measured is a failure in the summary.
    """
    from pipeline.runs.execute import execute

    _refuse_unknown(options, AuditOptions)
    request = build_request(AuditOptions(suite, str(out), **options))
    _warn(request.warnings)
    return execute(request, on_progress=on_progress)


def fork_suite(
    suite: str | Suite, out: str | Path, *, on_progress: OnProgress = lambda _: None, **options: Any
) -> RunSummary:
    """Continue training from a checkpoint of ``suite`` under several schedules; a rerun resumes or adds to it.

    options: the fields of :class:`ForkOptions` (``start="auto"`` or a step as text,
    ``schedules``, ``seeds``) and of ``AuditOptions``. Raises the errors of :func:`audit_suite`.
    """
    from pipeline.runs.execute import execute

    _refuse_unknown(options, AuditOptions, ForkOptions)
    shared = {field.name for field in fields(AuditOptions)}
    audit = AuditOptions(
        suite, str(out), **{name: value for name, value in options.items() if name in shared}
    )
    own = {name: value for name, value in options.items() if name not in shared}
    request = build_fork_request(ForkOptions(audit, **own))
    _warn(request.warnings)
    return execute(request, on_progress=on_progress)


def tokens_of(out: str | Path) -> np.ndarray:
    """The evaluation tokens of the audit in ``out``: int64 (batches, batch_size, seq_len)."""
    return run_folder(out).tokens.read()


def _refuse_unknown(options: dict[str, Any], *kinds: type) -> None:
    known = {field.name for kind in kinds for field in fields(kind)} - {"suite", "out", "audit"}
    for name in options.keys() - known:
        raise unknown_name("option", name, sorted(known))


def _warn(told: tuple[str, ...]) -> None:
    for each in told:
        warnings.warn(each, stacklevel=3)
